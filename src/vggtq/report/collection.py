"""All records below some folders, read once: unchanged ones come from the index of the last report."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vggtq.report.index import Index
from vggtq.report.records import Unreadable, find_records, read_record
from vggtq.report.sources import Source, source_of

_BAR_FROM = 50  # fewer files are read before a progress bar could be seen


@dataclass
class Collection:
    """What a search found: the newest record of each experiment, and what was left out."""

    sources: list[Source] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    superseded: int = 0


def collect(folders: Sequence[Path], skip: Path | None = None, index: Index | None = None) -> Collection:
    """Read every record below `folders` (a `result.json` itself is fine too), leaving out the folder `skip`.

    What `index` knows of unchanged files is not read again; it then knows all that were found.
    """
    found, index = Collection(), index or Index()
    for path in _with_progress(find_records(folders, skip)):
        try:
            found.sources.append(index.get(path, _source))
        except (OSError, ValueError, RecursionError) as error:
            found.unreadable.append(Unreadable(path, error))
    index.forget_others(found.sources)
    found.sources, found.superseded = newest_of_each(found.sources)
    return found


def _source(path: Path) -> Source:
    return source_of(path, read_record(path, layers=False))


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
            if any(_stands_for(other, identity) for other in newer):
                continue
            newer.append(identity)
        kept.append(source)
    return sorted(kept, key=lambda source: str(source.path)), len(sources) - len(kept)


def _stands_for(newer: tuple[Any, ...], older: tuple[Any, ...]) -> bool:
    return all(old is None or new == old for new, old in zip(newer, older, strict=True))


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
