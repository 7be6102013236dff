"""Tensors that are expensive to compute, kept on disk under the hash of everything they depend on.

One safetensors file per identity, with the identity and a digest of the tensors in its header. Whatever does not match on
reading (damaged, cut short, of another identity) is computed anew. A lock per file makes concurrent runs compute an entry once,
and files are written to a temporary name and renamed, so that no reader sees a part.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.atomic import remove_leftovers
from vggtq.safetensors_file import write_safetensors

log = logging.getLogger(__name__)

FORMAT = "vggtq cache 1"
Tensors = dict[str, Tensor]


class TensorCache:
    """A folder of cached tensors. `folder` None computes everything every time.

    content: what it keeps, for messages. notes: what went wrong with the folder, for the record; a cache that cannot be used
    never stops a run.
    """

    def __init__(self, folder: Path | None, content: str = "FP32 outputs") -> None:
        self.folder, self.content = folder, content
        self.notes: list[str] = []

    def get(self, identity: Mapping[str, Any], compute: Callable[[], Tensors]) -> tuple[Tensors, bool]:
        """The tensors that belong to `identity` (plain JSON values), and whether they came from the disk."""
        if self.folder is None:
            return compute(), False
        text = json.dumps(identity, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        with self._locked(path) as usable:
            if usable and path.exists():
                try:
                    return _read(path, text), True
                except (OSError, ValueError, SafetensorError) as error:
                    log.warning("cache entry %s… is not used (%s); computing it anew", path.stem[:12], error)
            tensors = compute()
            if usable:
                self._store(path, text, tensors)
        return tensors, False

    @contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Holds the entry's lock; yields False where the folder does not allow one."""
        with locked(path, f"another run is computing the same {self.content}; waiting for it") as error:
            if error:
                self._give_up("locked", error)
            yield error is None

    def _store(self, path: Path, text: str, tensors: Tensors) -> None:
        try:
            header = {"format": FORMAT, "identity": text, "digest": tensors_digest(tensors)}
            write_safetensors(path, tensors, header)
        except OSError as error:
            self._give_up("written", error)

    def _give_up(self, what: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        note = f"the cache of {self.content} cannot be {what} ({reason}); null as its folder switches it off"
        if note not in self.notes:
            log.warning(note)
            self.notes.append(note)


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[Exception | None]:
    """Holds the lock beside `path`; yields why not, where the folder does not allow it. waiting: what to say then."""
    lock = FileLock(path.with_suffix(".lock"))
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
        remove_leftovers(path)  # of a process that was killed while it held this lock
        yield None
    finally:
        lock.release()


def _read(path: Path, identity: str) -> Tensors:
    """The tensors of an entry. Raises ValueError, OSError or SafetensorError unless it is whole and the right one."""
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError("not a file of this cache")
        if header.get("identity") != identity:
            raise ValueError("it belongs to something else")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    if header.get("digest") != tensors_digest(tensors):
        raise ValueError("its content does not match its digest")
    return tensors


def tensors_digest(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data)
    return total.hexdigest()
