"""Find, read and deduplicate `result.json` files; what cannot be read is listed with its reason, never fatal."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vggtq.report.i18n import Translate, translator

RECORD_NAME = "result.json"
SCHEMA_VERSION = 1
_BAR_FROM = 50  # fewer files are read before a progress bar could be seen

Record = dict[str, Any]


class NotARecord(ValueError):
    """What a file is instead of a record: a text of the report and its values."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(translator("en")(key, **values))
        self.key, self.values = key, values


@dataclass(frozen=True)
class Unreadable:
    """A `result.json` that is no record, and why."""

    path: Path
    error: Exception

    @property
    def reason(self) -> str:
        words = (self.error.strerror if isinstance(self.error, OSError) else None) or str(self.error)
        return " ".join(words.split()) or type(self.error).__name__

    def told(self, t: Translate) -> str:
        """The reason in the language of `t`, where it is not the system's own message."""
        return t(self.error.key, **self.error.values) if isinstance(self.error, NotARecord) else self.reason


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
            found.unreadable.append(Unreadable(path, error))
    found.records, found.superseded = newest_of_each(found.records)
    return found


def find_records(folders: Sequence[Path], skip: Path | None = None) -> list[Path]:
    """Paths of all `result.json` below `folders`, sorted, each once even if folders overlap."""
    skipped = Path(os.path.realpath(skip)) if skip else None
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
    """The record in `path`; NotARecord says what it is instead. `NaN` and `Infinity` tokens read as null."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise NotARecord("not.json", line=error.lineno) from error
    except UnicodeDecodeError as error:
        raise NotARecord("not.text") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise NotARecord("not.record")
    if record["schema_version"] != SCHEMA_VERSION:
        raise NotARecord("not.version", found=repr(record["schema_version"]), known=SCHEMA_VERSION)
    if record.get("status") not in ("ok", "failed"):
        raise NotARecord("not.status", status=repr(record.get("status")))
    return record


def newest_of_each(records: Sequence[tuple[Path, Record]]) -> tuple[list[tuple[Path, Record]], int]:
    """One record per experiment, and how many gave way to it.

    An experiment is a configuration, its weights and images, and the device with its name: the same `device=auto`
    and the same folder name hold other things on another machine. A run that failed before it knew one of them
    gives way to any later run of its configuration.
    """
    newest_first = sorted(records, key=lambda item: (_started(item[1]), str(item[0])), reverse=True)
    kept: list[tuple[Path, Record]] = []
    identities: dict[str, list[tuple[Any, ...]]] = {}
    for path, record in newest_first:
        digest = record.get("config_hash")
        if isinstance(digest, str):
            identity = (dig(record, "model", "fingerprint"), scenes_hash(record), *hardware(record))
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


def scenes_hash(record: Record) -> str | None:
    """Of all images, in order. Names do not count: the same images in another folder are the same scenes."""
    scenes = dig(record, "dataset", "scenes")
    if not isinstance(scenes, list) or not scenes:
        return None
    content = [[dig(scene, "images_sha256"), dig(scene, "frames"), dig(scene, "size")] for scene in scenes]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


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
