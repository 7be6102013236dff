"""The work of one process: it predicts its share of the scenes one after another, with the model loaded once.

A share is every n-th scene of a list. A lock in the folder of a scene keeps two commands, or a job that
outlived its command, from doing the same scene at a time. The lock ends with its process. The state of a scene
is known from files alone.
"""

import json
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vggtq.data.select import count
from vggtq.errors import ConfigError, MissingExtraError, VggtqError, WeightsError, describe
from vggtq.files.atomic import remove_leftovers
from vggtq.machine.exhausted import release_memory
from vggtq.plugins import load_plugins
from vggtq.predict.kept import keeping
from vggtq.predict.options import Options
from vggtq.predict.pipeline import predict
from vggtq.predict.scenes.find import Scene
from vggtq.predict.scenes.states import Wanted, forget_failure, write_failure

LOCK = ".lock"


@dataclass(frozen=True)
class Job:
    """A share of the scenes, as a launcher calls it. Paths are absolute: the process may lie on another machine.

    options: of the whole command. arguments: the settings among those of the command. shown: `out` as it was typed.
    listing: a file with the scenes.
    """

    options: Options
    arguments: tuple[str, ...]
    shown: str
    wanted: Wanted
    listing: Path
    jobs: int

    def __call__(self, config: Any) -> str | None:
        """Returns None, or the reason why no other scene was tried: the model or an option cannot be used at all."""
        load_plugins(self.options.plugins)
        share = read_listing(self.listing)[int(config.job) :: self.jobs]
        # plans of a budget count the memory of loading a model, and two models are loaded in turn
        reused = self.options.budget_gb is None and self.options.compare is None
        with keeping(reused):
            try:
                busy = [scene for scene in share if not self._turn(scene, wait=False)]
                for scene in busy:
                    self._turn(scene, wait=True)
            except VggtqError as error:
                return describe(error)
            finally:
                release_memory()
        return None

    def _turn(self, scene: Scene, wait: bool) -> bool:
        """Predicts a scene unless that is done. Returns False where another process is at it, which `wait` waits for."""
        folder = self.wanted.out / scene.name
        try:
            with _locked(folder, wait):
                if self.wanted.made(scene) is None:
                    self._predict(scene, folder)
        except Timeout:
            return False
        except OSError as error:  # there is no folder for its results, so that no file can say why
            print(f"{scene.name} failed: {folder}: {error.strerror or error}", flush=True)
        return True

    def _predict(self, scene: Scene, folder: Path) -> None:
        """Raises VggtqError for errors that every scene would repeat."""
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            remove_leftovers(place)  # of a process that was killed while it held the lock
        own = (f"images={scene.folder}", f"out={Path(self.shown) / scene.name}")
        given = replace(
            self.options,
            images=[str(Path(scene.folder).expanduser().absolute())],
            scenes=[],
            jobs=None,
            out=str(folder),
            overwrite=True,
        )
        command = [*self.arguments, *own]
        try:
            predict(given, command)
        except (WeightsError, MissingExtraError):
            raise
        except Exception as error:
            # with a budget this may be one scene's; without, options are wrong for all of them
            if isinstance(error, ConfigError) and self.options.budget_gb is None:
                raise
            self._fail(scene, folder, command, error)
        else:
            forget_failure(folder)
            report = self.wanted.report(scene) or {}
            print(f"{scene.name}: {described(report)}", flush=True)

    def _fail(self, scene: Scene, folder: Path, command: list[str], error: Exception) -> None:
        expected = isinstance(error, VggtqError)
        message = " ".join(str(error).split()) if expected else f"{type(error).__name__}: {describe(error)}"
        print(f"{scene.name} failed: {message}", flush=True)
        failure = {
            "error": message,
            "command": shlex.join(["python", "-m", "vggtq.predict", *command]),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "traceback": None if expected else "".join(traceback.format_exception(error)),
        }
        try:
            write_failure(folder, failure)
        except OSError as full:
            print(f"{scene.name}: the reason cannot be kept: {full.strerror or full}", flush=True)
        error.__traceback__ = None  # it holds the memory of the prediction
        release_memory()


def described(report: dict[str, Any]) -> str:
    """Images, points and seconds of a prediction, for people."""
    images, points, seconds = row(report)
    return f"{count(images or 0, 'image')}, {count(points or 0, 'point')}, {seconds} s"


def row(report: dict[str, Any]) -> tuple[int | None, int | None, float | None]:
    """Number of images, number of points, and seconds that everything took; None for missing ones."""
    images, points, seconds = (report.get(key) for key in ("images", "points", "seconds"))
    return (
        len(images) if isinstance(images, list) else None,
        points.get("count") if isinstance(points, dict) else None,
        seconds.get("all") if isinstance(seconds, dict) else None,
    )


def write_listing(path: Path, scenes: list[Scene]) -> None:
    """One scene a line. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps([scene.name, scene.folder, scene.images]) + "\n" for scene in scenes]
    path.write_text("".join(lines), encoding="utf-8")


def read_listing(path: Path) -> list[Scene]:
    """Reads the scenes that `write_listing` wrote."""
    return [Scene(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """Raises Timeout where another process holds the lock. A file system without locks gives none."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # who waits for it looks next whether the scene is done
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # where nothing was written
