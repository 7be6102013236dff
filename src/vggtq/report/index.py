"""What earlier reports read, so that unchanged records are not read again: `records.index` in the folder of the report.

A record is known by its path, size, and times of modification and change in nanoseconds. The file opens with one line of JSON:
the format, a digest of the code that made its content, and a digest of that content; whatever does not match is read anew.
A record that changed within the last two seconds is not entered: it could change again without its time showing it.

Rows of one kind share their names, configurations are kept as differences from the commonest; compressed by zlib.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vggtq.atomic import replacing
from vggtq.report.sources import Source, commonest
from vggtq.source_code import PACKAGE, digest_of

INDEX_NAME = "records.index"
FORMAT = "vggtq report index 1"
_TICK_NS = 2_000_000_000  # the coarsest clock of a common file system (FAT)
_PARTS = ("scenes", "weights", "notes", "traceback", "preview", "has_layers")

Stamp = tuple[int, int, int]
_log = logging.getLogger("vggtq.report")


class Index:
    """Sources by path. `read`: how many were read from their records; `changed`: whether the file is out of date."""

    def __init__(self, known: dict[str, tuple[Stamp, Source]] | None = None) -> None:
        self.known = known or {}
        self.read = 0
        self.changed = False

    def get(self, path: Path, read: Callable[[Path], Source]) -> Source:
        """The source of the record in `path`, by `read` unless the file is the one that is known."""
        key, status = os.path.abspath(path), path.stat()  # noqa: PTH100  # resolving takes longer than reading a row
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in self.known and self.known[key][0] == stamp:
            source = self.known[key][1]
            source.path = path  # as it was asked for this time
            return source
        self.changed = self.known.pop(key, None) is not None or self.changed
        started = time.time_ns()
        source = read(path)
        self.read += 1
        if started - max(stamp[1:]) > _TICK_NS:
            self.known[key], self.changed = (stamp, source), True
        return source

    def forget_others(self, sources: Iterable[Source]) -> None:
        """Keep only what belongs to `sources`: other records are gone, or are no part of this report."""
        kept = {os.path.abspath(source.path) for source in sources}  # noqa: PTH100
        self.changed = self.changed or not self.known.keys() <= kept
        self.known = {key: value for key, value in self.known.items() if key in kept}

    def packed(self) -> bytes:
        """The content of the file, before anything is entered in the rows that depends on other rows."""
        body = zlib.compress(json.dumps(_encode(self.known), separators=(",", ":")).encode(), 1)
        head = {"format": FORMAT, "code": _code(), "sha256": hashlib.sha256(body).hexdigest()}
        return json.dumps(head).encode() + b"\n" + body


def load_index(path: Path) -> Index:
    """The index in `path`; an empty one, and a line in the log, where the file is damaged."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        said = json.loads(head)
        if (said["format"], said["code"]) != (FORMAT, _code()):
            return Index()  # of another version: nothing is wrong with it
        if said["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its content does not match its digest")
        return Index(_decode(json.loads(zlib.decompress(body))))
    except (FileNotFoundError, NotADirectoryError):
        return Index()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s); reading all records again", path, error)
        return Index()


def write_index(packed: bytes, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(packed)


def _code() -> str:
    """Of every file whose change could change a row: those of the report, and those beside migrations."""
    return digest_of((str(PACKAGE), str(PACKAGE / "report")))


def _encode(known: dict[str, tuple[Stamp, Source]]) -> dict[str, Any]:
    """Rows by the names they have, settings by how they differ from the commonest."""
    shapes: dict[tuple[str, ...], int] = {}
    sources = [source for _, source in known.values()]
    kinds = ("settings", "environment")
    first = {kind: commonest([getattr(source, kind) for source in sources]) for kind in kinds}
    entries = []
    for (key, (stamp, _)), source in zip(known.items(), sources, strict=True):
        shape = shapes.setdefault(tuple(source.row), len(shapes))
        changed = [_changed(first[kind], getattr(source, kind)) for kind in first]
        parts = [getattr(source, name) for name in _PARTS]
        entries.append([key, stamp, str(source.path), shape, list(source.row.values()), changed, parts])
    return {"shapes": list(shapes), "first": first, "entries": entries}


def _changed(first: dict[str, str], own: dict[str, str]) -> list[Any]:
    return [{k: v for k, v in own.items() if first.get(k) != v}, [k for k in first if k not in own]]


def _decode(content: dict[str, Any]) -> dict[str, tuple[Stamp, Source]]:
    shapes, first = content["shapes"], content["first"]
    known = {}
    for key, (size, modified, changed_at), path, shape, values, changes, parts in content["entries"]:
        flat = {}
        for kind, (changed, missing) in zip(("settings", "environment"), changes, strict=True):
            flat[kind] = {k: v for k, v in first[kind].items() if k not in missing} | changed
        row = dict(zip(shapes[shape], values, strict=True))
        own = dict(zip(_PARTS, parts, strict=True))
        known[key] = ((size, modified, changed_at), Source(Path(path), row, **flat, **own))
    return known
