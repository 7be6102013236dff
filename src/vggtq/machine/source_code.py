"""The code that numbers come from, as a digest: what a cached or recorded number must not outlive."""

import functools
import hashlib
from pathlib import Path

from vggtq.plugins import with_plugins

PACKAGE = Path(__file__).parents[1]
SUFFIXES = (".py", ".cpp", ".h")
# What the content of a run's record is made of. Sweeps and progress bars change none of it; nothing else is imported by a run.
RUNS = (
    "artifact", "config", "data", "engines", "errors", "files", "geometry", "machine", "metrics", "models", "network",
    "plugins", "prepare", "quant", "records", "run",
)  # fmt: skip


def run_code() -> str:
    """First 12 hex digits over the source that runs are made of, and over plugins."""
    return digest_of_packages(*RUNS)[:12]


def digest_of_packages(*names: str) -> str:
    """SHA-256 over the source of packages and modules below vggtq, e.g. "models", "errors", "quant.methods", and of plugins.

    Raises ValueError for a name that is none of them.
    """
    return with_plugins(digest_of(tuple(str(path) for name in sorted(names) for path in _sources(name))))


def _sources(name: str) -> list[Path]:
    """The folders of a package that hold source, or the file of a module."""
    place = PACKAGE / name.replace(".", "/")
    files = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else []
    sources = files or sorted({path.parent for path in place.rglob("*.py")})
    if not sources:
        raise ValueError(f"{name}: vggtq has no package or module of this name")
    return sources


@functools.cache
def digest_of(places: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of source files: those among `places`, and those in folders among them."""
    total = hashlib.sha256()
    for place in map(Path, places):
        for path in (
            [place] if place.is_file() else sorted(p for p in place.iterdir() if p.suffix in SUFFIXES)
        ):
            total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
