"""Tensors that are expensive to compute, kept on disk under the hash of everything they depend on.

Each identity has one safetensors file, with the identity and a digest of the tensors in its header. A file that does not
match on reading (damaged, cut short, of another identity) is computed again. A lock per file makes concurrent runs compute
an entry once. Files are written under a temporary name and renamed, so that no reader sees a part.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.files.atomic import remove_leftovers
from vggtq.files.tensors import raw_bytes, write_safetensors

log = logging.getLogger(__name__)

FORMAT = "vggtq cache 1"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """One entry: its file, and its identity as text. path None: nothing is kept."""

    path: Path | None
    identity: str


class TensorCache:
    """A folder of cached tensors. `folder` None computes everything every time.

    content: what it keeps, for messages. common: the part of the identity that all entries share. limit_bytes: of the folder;
    entries that were used longest ago make room. notes: what went wrong with the folder, for the record; a cache that cannot
    be used never stops a run.
    """

    def __init__(
        self,
        folder: Path | None,
        content: str = "tensors",
        common: Mapping[str, Any] | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        self.folder, self.content = folder, content
        self._common, self._limit = dict(common or {}), limit_bytes
        self.notes: list[str] = []

    def get(self, identity: Mapping[str, Any], compute: Callable[[], Tensors]) -> tuple[Tensors, bool]:
        """The tensors that belong to `identity` (plain JSON values), and whether they came from the disk."""
        entry = self.entry(identity)
        with self.locked(entry):
            if kept := self.read(entry):
                return kept[0], True
            tensors = compute()
            self.write(entry, tensors)
        return tensors, False

    def entry(self, identity: Mapping[str, Any]) -> Entry:
        """The entry of `identity`, whether it is there or not."""
        return entry_of(self.folder, self._common | dict(identity))

    @contextlib.contextmanager
    def locked(self, entry: Entry) -> Iterator[None]:
        """Waits until no other process works at the entry. A folder that does not allow a lock is not used any more."""
        if entry.path is None:
            yield
            return
        waiting = f"another run is computing the same {self.content}; waiting for it"
        with waiting_lock(entry.path.with_suffix(".lock"), waiting) as error:
            if error:
                self._give_up("locked", error)
            else:
                remove_leftovers(entry.path)  # of a process that was killed while it held this lock
            yield

    def read(self, entry: Entry) -> tuple[Tensors, dict[str, str]] | None:
        """The tensors and the header of an entry; None unless it is there, whole and the right one."""
        if self.folder is None or entry.path is None or not entry.path.exists():
            return None
        try:
            kept = read_entry(entry.path, entry.identity)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning(
                "%s: entry %s… is not used (%s); computing it anew", self.content, entry.path.stem[:12], error
            )
            return None
        with contextlib.suppress(OSError):  # another user's file
            os.utime(entry.path)  # the last use, for `_make_room`
        return kept

    def write(self, entry: Entry, tensors: Tensors, more: Mapping[str, str] | None = None) -> None:
        """Keeps the tensors, and `more` in the header."""
        if self.folder is None or entry.path is None:
            return
        try:
            self._make_room(sum(t.numel() * t.element_size() for t in tensors.values()))
            write_entry(entry.path, entry.identity, tensors, more)
        except OSError as error:
            self._give_up("written", error)

    def _make_room(self, new_bytes: int) -> None:
        """Removes entries, the one that was used longest ago first, until new ones keep the limit. Raises OSError."""
        if self.folder is None or self._limit is None:
            return
        entries = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another run made room
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
        total = new_bytes + sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)  # who has it open reads on
            total -= size

    def _give_up(self, what: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        note = f"the cache of {self.content} cannot be {what} ({reason}); cache=null switches all caches off"
        log.warning(note)
        self.notes.append(note)
        self.folder = None


@contextlib.contextmanager
def waiting_lock(path: Path, waiting: str) -> Iterator[Exception | None]:
    """Holds the lock `path`; yields why not, where the folder does not allow it. waiting: logged if another process holds it.

    The lock ends with its process, however that ends; its file stays, since removing it would let two processes in.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            log.info(waiting)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # filelock: the file system knows no locks
        yield error
        return
    try:
        yield None
    finally:
        lock.release()


def entry_of(folder: Path | None, identity: Mapping[str, Any]) -> Entry:
    """The entry of `identity` (plain JSON values) in a folder, whether it is there or not."""
    text = json.dumps(dict(identity), sort_keys=True)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    return Entry(folder / name if folder else None, text)


def write_entry(path: Path, identity: str, tensors: Tensors, more: Mapping[str, str] | None = None) -> None:
    """Writes the file of an entry, with `more` in its header. Raises OSError."""
    header = {"format": FORMAT, "identity": identity, "digest": tensors_digest(tensors)}
    write_safetensors(path, tensors, header | dict(more or {}))


def read_entry(path: Path, identity: str) -> tuple[Tensors, dict[str, str]]:
    """Tensors and header. Raises ValueError, OSError or SafetensorError unless the entry is whole and the right one."""
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError("not a file of this cache")
        if header.get("identity") != identity:
            raise ValueError("it belongs to something else")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    if header.get("digest") != tensors_digest(tensors):
        raise ValueError("its content does not match its digest")
    return tensors, header


def tensors_digest(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        total.update(raw_bytes(tensors[name]))
    return total.hexdigest()
