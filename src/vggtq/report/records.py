"""Find and read `result.json` files, those of older schema versions too; what is no record says why."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.migrations import UnknownVersion, migrated
from vggtq.record import FILE_NAME, SCHEMA_VERSION
from vggtq.report.i18n import Translate, translator

Record = dict[str, Any]
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


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


def find_records(folders: Sequence[Path], skip: Path | None = None) -> list[Path]:
    """Paths of all `result.json` below `folders`, sorted, each once even if folders overlap."""
    skipped = os.path.realpath(skip) if skip else None
    found: dict[str, Path] = {}
    for folder in folders:
        for real, path in _walk(folder, skipped):
            found.setdefault(real, path)
    return sorted(found.values())


def _walk(folder: Path, skipped: str | None) -> Iterator[tuple[str, Path]]:
    """Where each record really is, and its path below `folder`. Links to folders are not followed."""
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

    Without `layers` that list, two thirds of a file, is skipped where it is laid out as runs write it; [null] stands for it.
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
        return migrated(record)
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


def dig(record: Any, *keys: str) -> Any:
    """`record[a][b]…`, or None as soon as a level is missing or no mapping."""
    for key in keys:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record
