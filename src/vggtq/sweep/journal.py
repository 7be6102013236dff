"""The result of each job of a sweep: one small file per job in a folder that all processes of the sweep share.

Launchers run jobs in processes of their own, on other machines too, which return results through files only. An environment
variable has the folder's path, and the folder's name is the sweep's id. The folder is removed when the sweep ends. The next
sweep in the same folder removes the files of a killed one; a lock shows whether a sweep is still running.
"""

import contextlib
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from vggtq.config.compose import SWEEP_VARIABLE
from vggtq.files.atomic import write_text

PREFIX = ".sweep-"
ANSWERED = ("ok", "skipped")  # statuses of jobs that have a record to show


@dataclass(frozen=True)
class Entry:
    """One job that ended. status: ok, skipped (measured earlier), failed, or stopped (not run, for another failed)."""

    job: int
    status: str
    folder: str  # of the run, absolute
    message: str = ""
    told: bool = True  # its failure stands on the terminal already


class Journal:
    """`folder` is made when a sweep starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / "lock")

    @classmethod
    def start(cls, sweep_dir: Path) -> "Journal":
        """The journal of a new sweep, known to all processes that are started from now on."""
        for left in sweep_dir.glob(f"{PREFIX}*"):
            _remove_if_dead(left)
        journal = cls((sweep_dir / f"{PREFIX}{uuid.uuid4().hex}").absolute())
        journal.folder.mkdir(parents=True)
        # Without locks nothing is removed that may be alive.
        with contextlib.suppress(OSError, NotImplementedError):
            journal._lock.acquire()
        (journal.folder / "terminal").write_text(json.dumps(_terminal()))
        os.environ[SWEEP_VARIABLE] = str(journal.folder)
        return journal

    @classmethod
    def current(cls) -> "Journal | None":
        """The journal of the sweep that this process belongs to."""
        folder = os.environ.get(SWEEP_VARIABLE)
        return cls(Path(folder)) if folder else None

    @property
    def id(self) -> str:
        return self.folder.name.removeprefix(PREFIX)

    def enter(self, entry: Entry) -> None:
        """Raises OSError."""
        entry = replace(entry, told=self._shares_terminal())
        write_text(self.folder / f"{entry.job}.{entry.status}.json", json.dumps(asdict(entry)))

    def entries(self, status: str = "*") -> list[Entry]:
        """In the order of the jobs' numbers."""
        found = []
        for path in self.folder.glob(f"*.{status}.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Entry(**json.loads(path.read_text(encoding="utf-8"))))
        return sorted(found, key=lambda entry: entry.job)

    def end(self) -> None:
        os.environ[SWEEP_VARIABLE] = ""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _shares_terminal(self) -> bool:
        """Whether the output of this process is seen where the sweep was started."""
        try:
            return bool(json.loads((self.folder / "terminal").read_text()) == _terminal())
        except (OSError, ValueError):
            return False


def _terminal() -> list[int]:
    """Of the standard output: device and number of the file."""
    try:
        stat = os.fstat(1)
    except OSError:
        return []
    return [stat.st_dev, stat.st_ino]


def _remove_if_dead(folder: Path) -> None:
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):
        return
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
