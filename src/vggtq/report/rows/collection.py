"""All records below some folders, and of each experiment the newest."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vggtq.metrics.table import adopt
from vggtq.records.reading import find_records, read_record
from vggtq.report.rows.sources import Source, source_of

OWN_FILES = ("result.json", "run.log", ".lock")  # of a run that never started, beside .hydra
_BAR_FROM = 50  # fewer files are read before a progress bar could be seen


@dataclass(frozen=True)
class Unreadable:
    """A `result.json` that is no record, and why."""

    path: Path
    error: Exception

    @property
    def reason(self) -> str:
        words = (self.error.strerror if isinstance(self.error, OSError) else None) or str(self.error)
        return " ".join(words.split()) or type(self.error).__name__


@dataclass
class Collection:
    """The result of a search: the newest record of each experiment, and the records that were left out."""

    sources: list[Source] = field(default_factory=list)
    refused: list[Source] = field(
        default_factory=list
    )  # runs that never started; none of them is in `sources`
    unreadable: list[Unreadable] = field(default_factory=list)
    superseded: int = 0


def collect(folders: Sequence[Path], skip: Path | None = None) -> Collection:
    """Read every record below `folders` (a `result.json` itself is fine too), leaving out the folder `skip`."""
    found = Collection()
    for path in _with_progress(find_records(folders, skip)):
        try:
            found.sources.append(source_of(path, read_record(path, layers=False)))
        except (OSError, ValueError, RecursionError) as error:
            found.unreadable.append(Unreadable(path, error))
    for source in sorted(found.sources, key=_started):  # the newer record counts
        adopt(source.metrics)
    newest, found.superseded = newest_of_each(found.sources)
    found.refused = [source for source in newest if source.refused]
    found.sources = [source for source in newest if not source.refused]
    return found


def prune_refused(found: Collection) -> list[Path]:
    """Deletes the runs that never started, and returns their folders. Files that are not a run's own stay where
    they are.
    """
    for source in found.refused:
        folder = source.path.parent
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        with suppress(OSError):  # it holds something else
            folder.rmdir()
    return [source.path.parent for source in found.refused]


def newest_of_each(sources: Sequence[Source]) -> tuple[list[Source], int]:
    """One record per experiment, and how many gave way to it.

    An experiment is a configuration, its weights and images, and the device with its name: the same `device=auto`
    and the same folder name hold other things on another machine. A run that failed before it knew one of them
    gives way to any later run of its configuration.
    """
    newest_first = sorted(sources, key=lambda source: (_started(source), str(source.path)), reverse=True)
    kept: list[Source] = []
    identities: dict[str, list[tuple[Any, ...]]] = {}
    for source in newest_first:
        digest = source.row["config_hash"]
        if digest is not None:
            names = ("fingerprint", "scenes_hash", "device", "hardware")
            identity = tuple(source.row[name] for name in names)
            newer = identities.setdefault(digest, [])
            if any(all(old in (None, new) for new, old in zip(n, identity, strict=True)) for n in newer):
                continue
            newer.append(identity)
        kept.append(source)
    return sorted(kept, key=lambda source: str(source.path)), len(sources) - len(kept)


def _started(source: Source) -> datetime:
    try:
        started = datetime.fromisoformat(source.row["started"])
    except (TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _with_progress(paths: list[Path]) -> Iterable[Path]:
    if len(paths) < _BAR_FROM or not sys.stderr.isatty():
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, description="Reading records", console=Console(stderr=True), transient=True)
