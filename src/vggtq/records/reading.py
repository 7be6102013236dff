"""Reads records: finds them below folders, checks them, brings them into the present form."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vggtq.machine.environment import Environment
from vggtq.records.migrations import UnknownVersion, migrated
from vggtq.records.of_run import SceneEntry
from vggtq.records.plain import parsed
from vggtq.records.schema import FILE_NAME, SCHEMA_VERSION, Record

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


# What a file may be instead of a record, by the key of the report's text.
REASONS = {
    "not.json": "not valid JSON (line {line})",
    "not.text": "not UTF-8 text",
    "not.record": "not a vggtq record: it has no schema_version",
    "not.version": "schema_version {found} is unknown; this report reads 1 to {known}",
    "not.newer": "schema_version {found} is newer than {known}, the newest that this report reads; update vggtq",
    "not.status": "status {status} is neither ok nor failed",
}


class NotARecord(ValueError):
    """The reason why a file is no record: a key of REASONS and its values."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(REASONS[key].format(**values))
        self.key, self.values = key, values


def find_records(folders: Sequence[Path], skip: Path | None = None) -> list[Path]:
    """Paths of all `result.json` below `folders`, sorted, each once even if folders overlap."""
    skipped = os.path.realpath(skip) if skip else None
    found: dict[str, Path] = {}
    for folder in folders:
        for real, path in _walk(folder, skipped):
            found.setdefault(real, path)
    return sorted(found.values())


def _walk(folder: Path, skipped: str | None) -> Iterator[tuple[str, Path]]:
    """The real path of each record, and its path below `folder`. Links to folders are not followed."""
    top = os.path.realpath(folder)
    if folder.is_file():
        yield top, folder
    for here, below, names in os.walk(top):
        below[:] = sorted(name for name in below if os.path.join(here, name) != skipped)  # noqa: PTH118
        if FILE_NAME in names:
            path = folder / here[len(top) :].lstrip(os.sep) / FILE_NAME
            # one call to the system for each of ten thousand folders is what takes the time
            yield os.path.realpath(path) if path.is_symlink() else os.path.join(here, FILE_NAME), path  # noqa: PTH118


def read_record(path: Path, layers: bool = True) -> Record:
    """The record in `path`; NotARecord says what it is instead. `NaN` and `Infinity` tokens read as null.

    Without `layers` that list, two thirds of a file, is skipped where it is laid out as runs write it; an empty entry is left.
    """
    content = path.read_bytes()
    try:
        try:
            record = _loads(content if layers else _without_layers(content))
        except json.JSONDecodeError:  # counted in the whole file, the line is one that an editor shows
            record = _loads(content)
    except json.JSONDecodeError as error:
        raise NotARecord("not.json", line=error.lineno) from error
    except UnicodeDecodeError as error:
        raise NotARecord("not.text") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise NotARecord("not.record")
    if record.get("status") not in ("ok", "failed"):
        raise NotARecord("not.status", status=repr(record.get("status")))
    try:
        return parsed(Record, migrated(record))
    except UnknownVersion as error:
        key = "not.newer" if error.newer else "not.version"
        raise NotARecord(key, found=repr(error.found), known=SCHEMA_VERSION) from error


def _loads(content: bytes) -> Any:
    return _DECODER.decode(content.decode("utf-8"))


def _without_layers(content: bytes) -> bytes:
    """JSON strings hold no line breaks: so these two lines are where a list of the record opens and ends."""
    start = content.find(b'\n "layers": [\n')
    end = content.find(b"\n ]", start + 1)
    return content if min(start, end) < 0 else content[:start] + b'\n "layers": [null' + content[end:]


def hardware(environment: Environment | None) -> str | None:
    """The name of that GPU or CPU: two machines are both called cpu."""
    if environment is None:
        return None
    return environment.gpu if str(environment.device).startswith("cuda") else environment.cpu


def scenes_hash(scenes: Sequence[SceneEntry]) -> str | None:
    """Of all images, in order. Names do not count: the same images in another folder are the same scenes."""
    if not scenes:
        return None
    content = [[scene.images_sha256, scene.frames, scene.size] for scene in scenes]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
