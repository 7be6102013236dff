"""Windows that are predicted, one file each, so that none of them waits in memory and an interruption loses no more than one.

A file is named by the hash of everything that its numbers depend on, as in `vggtq.files.cache`: the model, levers, the code,
the machine, and the images by their content. A file is used only where all of that is the same and its content is whole.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vggtq.data.select import count
from vggtq.errors import ConfigError
from vggtq.files.atomic import remove_leftovers
from vggtq.files.cache import Entry, Tensors, entry_of, read_entry, write_entry
from vggtq.machine.identity import numeric_machine
from vggtq.machine.source_code import digest_of_packages
from vggtq.network.memory import Memory

log = logging.getLogger(__name__)

CODE = ("artifact", "data", "geometry", "models", "network", "predict", "quant")  # what makes the numbers


LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other command works in the folder of all windows. Raises ConfigError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"out={folder.parent}: another command predicts into this folder; wait for it, or name another folder"
        ) from error
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for place in (folder, folder.parent):
            with suppress(OSError):
                place.rmdir()  # where nothing was written


class Store:
    """The files of one model's windows in a folder, which is made when the first is written."""

    def __init__(self, folder: Path, common: Mapping[str, Any]) -> None:
        """common: the part of the identity that all windows share, plain JSON values."""
        self.folder, self._common = folder, dict(common)
        if folder.is_dir():
            remove_leftovers(folder)  # of a process that was killed

    @classmethod
    def of(cls, folder: Path, digest: str, memory: Memory, head: bool, device: torch.device) -> "Store":
        """digest: of the model file. head: with the network's own points."""
        machine, code = numeric_machine(device), digest_of_packages(*CODE)
        common = {
            "model": digest,
            "levers": dict(vars(memory)),
            "head": head,
            "machine": machine,
            "code": code,
        }
        return cls(folder, common)

    def entry(self, **identity: Any) -> Entry:
        """The place of the numbers of this identity, whether they are there or not."""
        return entry_of(self.folder, self._common | identity)

    def has(self, entry: Entry) -> bool:
        """Whether it is there and whole."""
        if not path_of(entry).exists():
            return False
        try:
            read_entry(path_of(entry), entry.identity)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("%s is not used (%s); predicting it anew", path_of(entry), error)
            return False
        return True

    def get(self, entry: Entry, compute: Callable[[], Tensors]) -> Tensors:
        """The tensors of an entry, computed and written unless it is there. Raises OSError."""
        if self.has(entry):
            return read_entry(path_of(entry), entry.identity)[0]
        tensors = compute()
        write_entry(path_of(entry), entry.identity, tensors)
        return tensors

    def write(self, entry: Entry, tensors: Tensors) -> None:
        """Raises OSError."""
        write_entry(path_of(entry), entry.identity, tensors)

    def keep_only(self, entries: Collection[Entry]) -> None:
        """Removes files of another identity, and logs it."""
        known = {path_of(entry) for entry in entries}
        others = [path for path in self.folder.glob("*.safetensors") if path not in known]
        for path in others:
            path.unlink(missing_ok=True)
        if others:
            log.info(
                "note: %s of other images, options, model or version in %s cannot be used and are replaced",
                count(len(others), "file"),
                self.folder,
            )


def path_of(entry: Entry) -> Path:
    """Its file."""
    assert entry.path is not None
    return entry.path


def names_in(path: Path) -> set[str]:
    """Of the tensors in a window's file."""
    with safe_open(str(path), framework="np") as file:
        return set(file.keys())


def whole(path: Path, name: str) -> NDArray[Any]:
    """A tensor of a window's file."""
    with safe_open(str(path), framework="np") as file:
        found: NDArray[Any] = file.get_tensor(name)
        return found


def row(path: Path, name: str, place: int) -> NDArray[Any]:
    """One image's part of a tensor; nothing else of it is read."""
    # mapped anew each time: pages of a long mapping would count as memory of this process
    with safe_open(str(path), framework="np") as file:
        found: NDArray[Any] = file.get_slice(name)[place]
        return found
