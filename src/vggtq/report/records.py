"""Find, read and deduplicate `result.json` files; what cannot be read is listed with its reason, never fatal."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECORD_NAME = "result.json"
SCHEMA_VERSION = 1
_BAR_FROM = 50  # fewer files are read before a progress bar could be seen

Record = dict[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """A `result.json` that is no record, and why."""

    path: Path
    reason: str


@dataclass
class Collection:
    """What a search found: `(path, record)` pairs, newest of each experiment, and what was left out."""

    records: list[tuple[Path, Record]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    superseded: int = 0


def collect(folders: Sequence[Path], skip: Path | None = None) -> Collection:
    """Read every record below `folders` (a `result.json` itself is fine too), leaving out the folder `skip`."""
    found = Collection()
    for path in _with_progress(find_records(folders, skip)):
        try:
            found.records.append((path, read_record(path)))
        except (OSError, ValueError, RecursionError) as error:
            found.unreadable.append(Unreadable(path, _one_line(error)))
    found.records, found.superseded = newest_of_each(found.records)
    return found


def find_records(folders: Sequence[Path], skip: Path | None = None) -> list[Path]:
    """Paths of all `result.json` below `folders`, sorted, each once even if folders overlap."""
    skipped = skip.resolve() if skip else None
    found: dict[Path, Path] = {}
    for folder in folders:
        for path in [folder] if folder.is_file() else _walk(folder, skipped):
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def _walk(folder: Path, skipped: Path | None) -> Iterator[Path]:
    for here, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if (Path(here) / name).resolve() != skipped)
        if RECORD_NAME in names:
            yield Path(here) / RECORD_NAME


def read_record(path: Path) -> Record:
    """The record in `path`; ValueError says what it is instead. `NaN` and `Infinity` tokens read as null."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} (line {error.lineno})") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise ValueError("not a vggtq record: it has no schema_version")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {record['schema_version']!r} is unknown; this report reads {SCHEMA_VERSION}"
        )
    if record.get("status") not in ("ok", "failed"):
        raise ValueError(f"status {record.get('status')!r} is neither ok nor failed")
    return record


def newest_of_each(records: Sequence[tuple[Path, Record]]) -> tuple[list[tuple[Path, Record]], int]:
    """One record per experiment (config hash, model fingerprint, device and its name), and how many gave way to it.

    A run that failed before its model was loaded has no fingerprint; any later run of the same configuration
    stands for it. The device counts because `device=auto` gives two machines the same configuration.
    """
    newest_first = sorted(records, key=lambda item: (_started(item[1]), str(item[0])), reverse=True)
    kept: list[tuple[Path, Record]] = []
    identities: dict[str, list[tuple[Any, ...]]] = {}
    for path, record in newest_first:
        digest = record.get("config_hash")
        if isinstance(digest, str):
            identity = (dig(record, "model", "fingerprint"), *hardware(record))
            newer = identities.setdefault(digest, [])
            if any(_stands_for(other, identity) for other in newer):
                continue
            newer.append(identity)
        kept.append((path, record))
    return sorted(kept, key=lambda item: str(item[0])), len(records) - len(kept)


def hardware(record: Record) -> tuple[Any, Any]:
    """The device and the name of that GPU or CPU: two machines are both called cpu."""
    device = dig(record, "environment", "device")
    on_gpu = isinstance(device, str) and device.startswith("cuda")
    return device, dig(record, "environment", "gpu" if on_gpu else "cpu")


def _stands_for(newer: tuple[Any, ...], older: tuple[Any, ...]) -> bool:
    return all(old is None or new == old for new, old in zip(newer, older, strict=True))


def _started(record: Record) -> datetime:
    try:
        started = datetime.fromisoformat(record["started"])
    except (KeyError, TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def dig(record: Any, *keys: str) -> Any:
    """`record[a][b]…`, or None as soon as a level is missing or no mapping."""
    for key in keys:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def _with_progress(paths: list[Path]) -> Iterable[Path]:
    if len(paths) < _BAR_FROM or not sys.stderr.isatty():
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, description="Reading records", console=Console(stderr=True), transient=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
