"""One process per run folder: two sweeps in one folder share the work instead of doing it twice.

The lock ends with its process, however that ends; its file stays, since removing it would let two processes in.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

FILE_NAME = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[str | None]:
    """Holds the lock of a run folder. Yields None, or a note where the file system knows no locks."""
    lock = FileLock(folder / FILE_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    note = None
    try:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            log.info("another process is measuring %s; waiting for it", folder.name)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        note = f"the run folder cannot be locked ({reason}): another process may have measured the same at the same time"
        log.warning(note)
    try:
        yield note
    finally:
        lock.release()
