"""The code that numbers come from, as a digest: what a cached or recorded number must not outlive."""

import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent
# A run imports nothing from these, so that a chart can be redrawn without measuring everything again.
WITHOUT_RUNS = ("report", "accuracy", "bench", "training", "prediction")


def run_code() -> str:
    """First 12 hex digits over the package's own source, as far as runs are made of it."""
    return digest_of(package_folders(WITHOUT_RUNS))[:12]


def package_digest() -> str:
    """SHA-256 over all source files of this package."""
    return digest_of(package_folders())


def package_folders(left_out: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The folders of this package that hold source, without subpackages that are left out."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    return tuple(
        sorted(str(f) for f in folders if f.relative_to(PACKAGE).parts[:1] not in {(n,) for n in left_out})
    )


@functools.cache
def digest_of(folders: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of the source files in `folders`, folder by folder."""
    total = hashlib.sha256()
    for path in sorted(path for folder in folders for path in Path(folder).glob("*.py")):
        total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
