"""Files that appear whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, SUFFIX = ".vggtq-", ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, made if need be; renamed to `path` at the end, removed after any failure.

    The temporary name does not grow with that of `path`, so that a name of the longest allowed length can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_stem(path)}-", suffix=SUFFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are for their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A folder inside `beside`, which is made if need be, for the length of a `with` block."""
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, suffix=SUFFIX, dir=beside) as name:
        yield Path(name)


def remove_leftovers(place: Path) -> None:
    """Removes what killed writers left: of one file, or of all files of a folder. No other process may be writing there."""
    folder, stem = (place, PREFIX) if place.is_dir() else (place.parent, f"{_stem(place)}-")
    for left in folder.glob(f"{stem}*{SUFFIX}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    """Tells the temporary files of `path` from those of its neighbours."""
    return PREFIX + hashlib.sha256(path.name.encode()).hexdigest()[:8]


def _umask() -> int:
    mask = os.umask(0o022)  # it cannot be read without being set
    os.umask(mask)
    return mask
