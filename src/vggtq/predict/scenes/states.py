"""The state of a scene, from the files in its folder of results: predicted, failed, or neither."""

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vggtq.errors import ConfigError, VggtqError
from vggtq.files.atomic import write_text
from vggtq.predict.files.writer import INDEX
from vggtq.predict.options import Options
from vggtq.predict.scenes.find import Scene, images_digest
from vggtq.predict.sources import Source
from vggtq.terminal.options import parse

ERROR = "error.json"


@dataclass(frozen=True)
class Wanted:
    """The requirements that a prediction has to meet to count: these model files, these settings.

    digests: of the model files. settings: the options; those that change results are compared. since_ns: time
    of change of a file in `out`; with overwrite=true a prediction that is older does not count. It is compared
    with times of the same file system, so that clocks of several machines do not matter.
    """

    digests: tuple[str, ...]
    settings: Options
    out: Path
    since_ns: int | None = None

    @classmethod
    def of(cls, options: Options, sources: Sequence[Source], out: Path) -> "Wanted":
        return cls(tuple(source.header.digest for source in sources), options, out)

    def made(self, scene: Scene) -> dict[str, Any] | None:
        """The index of a prediction that counts; None where there is none."""
        report = self.report(scene)
        if report is None or self.difference(report) or not self._new_enough(self.out / scene.name / INDEX):
            return None
        return report if images_digest(_names(report)) == scene.images else None

    def report(self, scene: Scene) -> dict[str, Any] | None:
        """The index of any whole prediction in the scene's folder."""
        return _read(self.out / scene.name / INDEX)

    def difference(self, report: dict[str, Any]) -> str:
        """The first difference between the settings of the prediction and those of now; empty for none."""
        try:
            models = [report[key]["digest"] for key in ("model", "compare") if key in report]
            then = _comparable(parse(shlex.split(report["command"])[3:], Options))
        except (VggtqError, KeyError, TypeError, ValueError, AttributeError):
            return "a command that this version does not know"
        now = _comparable(self.settings)
        changed = [f.name for f in fields(Options) if getattr(then, f.name) != getattr(now, f.name)]
        if changed:
            return f"{changed[0]}={getattr(then, changed[0])} instead of {getattr(now, changed[0])}"
        return "" if tuple(models) == self.digests else "another model"

    def failure(self, scene: Scene, since_ns: int) -> str | None:
        """Why the scene failed after that time, if it did."""
        path = self.out / scene.name / ERROR
        found = _read(path)
        if found is None or _changed_ns(path) < since_ns:
            return None
        return str(found.get("error"))

    def _new_enough(self, path: Path) -> bool:
        return self.since_ns is None or _changed_ns(path) >= self.since_ns


def check_settings(wanted: Wanted, scene: Scene, report: dict[str, Any]) -> None:
    """Raises ConfigError where a scene has a prediction of another model or with other settings."""
    if difference := wanted.difference(report):
        raise ConfigError(
            f"out={wanted.settings.out}: {scene.name} was predicted with {difference}; name another "
            "folder, or overwrite=true to predict all scenes again"
        )


def write_failure(folder: Path, failure: dict[str, Any]) -> None:
    """Says in the scene's folder why there is no prediction. Raises OSError."""
    write_text(folder / ERROR, json.dumps(failure, indent=1, ensure_ascii=False) + "\n")


def forget_failure(folder: Path) -> None:
    """Of an earlier start."""
    with contextlib.suppress(OSError):
        (folder / ERROR).unlink(missing_ok=True)


def _comparable(options: Options) -> Options:
    """Without options that change no result, and without those that differ from scene to scene."""
    compare = None if options.compare is None else "another model"
    same: dict[str, Any] = {"images": ["one"], "scenes": [], "out": "", "model": "", "compare": compare}
    return replace(options, **same, jobs=None, overwrite=False, device="auto", threads=None)


def _names(report: dict[str, Any]) -> list[str]:
    try:
        return [Path(image["image"]).name for image in report["images"]]
    except (KeyError, TypeError):
        return []


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _changed_ns(path: Path) -> int:
    """0 for a file that is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
