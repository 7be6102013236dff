"""Tensors that wait: in memory up to a limit, beyond it in a temporary file, so that many of them take no more memory than few.

The file has no name, so nothing is left of it whatever happens; it lies where the system puts temporary files (TMPDIR).
"""

import errno
import tempfile
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

from vggtq.errors import DiskFull


@dataclass(frozen=True)
class _Place:
    """The place of a tensor in the file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


Kept = Tensor | _Place
FEWER_SAMPLES = "take fewer samples (calibration.samples=N)"


class Overflow:
    """memory_bytes: the size of all tensors together beyond which further ones go to the file. remedy: an
    option that needs less of the disk. content: a name of the tensors, for messages.
    """

    def __init__(self, memory_bytes: int, remedy: str = FEWER_SAMPLES, content: str = "activations") -> None:
        self.memory_left, self.file_bytes = memory_bytes, 0
        self._remedy, self._content = remedy, content
        self._file: IO[bytes] | None = None
        self._gaps: dict[int, list[int]] = {}  # offsets that are free again, by size

    def keep(self, tensor: Tensor) -> Kept:
        """Stores a tensor; returns what `get` takes to give it back. Raises DiskFull."""
        size = tensor.untyped_storage().nbytes()
        if size <= self.memory_left:
            self.memory_left -= size
            return tensor
        place = _Place(0, tensor.shape, tensor.dtype, tensor.device)
        gaps = self._gaps.get(place.size)
        offset = gaps.pop() if gaps else self.file_bytes
        try:
            self._write(offset, tensor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(
                f"{place.size / 2**20:.0f} MiB of {self._content} that wait for their turn do not fit into "
                f"{tempfile.gettempdir()}, beside {self.file_bytes / 2**20:.0f} others; free some space, choose another place "
                f"with the environment variable TMPDIR, or {self._remedy}"
            ) from error
        self.file_bytes = max(self.file_bytes, offset + place.size)
        return _Place(offset, place.shape, place.dtype, place.device)

    def get(self, kept: Kept, start: int = 0, stop: int | None = None) -> Tensor:
        """The tensor, or a part of it along its first axis; from the file a new one each time."""
        whole = start == 0 and stop is None
        if isinstance(kept, Tensor):
            return kept if whole else kept[start:stop]
        assert self._file is not None
        rows = range(*slice(start, stop).indices(kept.shape[0])) if not whole else None
        shape = kept.shape if rows is None else (len(rows), *kept.shape[1:])
        tensor = torch.empty(shape, dtype=kept.dtype)
        self._file.seek(kept.offset + (rows.start * kept.size // kept.shape[0] if rows else 0))
        left = _bytes(tensor)
        while left:  # a read may be cut short, on Linux after 2 GiB
            count = self._file.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise OSError(
                    f"{len(left)} bytes of a waiting tensor are missing in {tempfile.gettempdir()}; run it again"
                )
            left = left[count:]
        return tensor.to(kept.device)

    def forget(self, kept: Kept) -> None:
        """Frees the place of a tensor for others."""
        if isinstance(kept, Tensor):
            self.memory_left += kept.untyped_storage().nbytes()
        else:
            self._gaps.setdefault(kept.size, []).append(kept.offset)

    def _write(self, offset: int, tensor: Tensor) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as this object
        self._file.seek(offset)
        left = _bytes(tensor.detach().cpu().contiguous())
        while left:  # a write may be cut short
            left = left[self._file.write(left) :]


class HeldTensors(MutableMapping[str, Tensor]):
    """Tensors by name, which share an overflow with others."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._kept: dict[str, Kept] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._overflow.get(self._kept[name])

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        if name in self._kept:
            del self[name]
        self._kept[name] = self._overflow.keep(tensor)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A part of a tensor along its first axis; of one in the file nothing else is read."""
        return self._overflow.get(self._kept[name], start, stop)

    def __delitem__(self, name: str) -> None:
        self._overflow.forget(self._kept.pop(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data
