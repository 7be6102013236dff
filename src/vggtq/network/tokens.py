"""Tokens of the layers that heads read, between the blocks that make them and the heads: as they are, rounded, or on disk.

A layer waits in parts whose channels lie side by side, and is put together for a few frames at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.files.spill import HeldTensors, Overflow
from vggtq.network.stages import Held

PREFIX = "tokens."  # of their names among the tensors of a pass
REMEDY = "take fewer images, or memory.tokens=bfloat16"


class KeptTokens(dict[str, Tensor]):
    """The tensors of a pass. Those called PREFIX… are kept as `kind` says: float32 as they come, bfloat16, or on disk."""

    def __init__(self, kind: str, **tensors: Tensor) -> None:
        super().__init__(tensors)
        self._kind, self._disk = kind, HeldTensors(Overflow(0, REMEDY))
        self._dtypes: dict[str, torch.dtype] = {}

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        if not name.startswith(PREFIX) or self._kind == "float32":
            super().__setitem__(name, tensor)
        elif self._kind == "disk":
            self._disk[name] = tensor
        else:
            self._dtypes[name] = tensor.dtype
            super().__setitem__(name, tensor.to(torch.bfloat16))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A part of a tensor along its first axis."""
        if name in self._disk:
            return self._disk.rows(name, start, stop)
        rows = self[name][start:stop]
        return rows.to(self._dtypes.get(name, rows.dtype))


@dataclass(frozen=True)
class TokenLayer:
    """One layer, (B, S, N, E). names: of its parts in `held`, (B·S, N, …) each; batch: B and S."""

    held: Held
    names: tuple[str, ...]
    batch: tuple[int, int]

    def frames(self, start: int, stop: int, first: int = 0) -> Tensor:
        """(M, N - first, E): tokens from `first` on of the frames start … stop - 1, counted over the batch."""
        return self._joined(start, stop, slice(first, None))

    def special(self, count: int) -> Tensor:
        """(B, S, count, E): the first tokens of every frame."""
        if not isinstance(self.held, KeptTokens):
            return torch.cat([self.held[name][:, :count] for name in self.names], dim=-1).unflatten(
                0, self.batch
            )
        frames = range(self.batch[0] * self.batch[1])  # one at a time, since all of them may lie on disk
        return torch.cat([self._joined(i, i + 1, slice(count)) for i in frames]).unflatten(0, self.batch)

    def whole(self) -> Tensor:
        """(B, S, N, E)"""
        if not isinstance(self.held, KeptTokens):
            return torch.cat([self.held[name] for name in self.names], dim=-1).unflatten(0, self.batch)
        return self.frames(0, self.batch[0] * self.batch[1]).unflatten(0, self.batch)

    def _joined(self, start: int, stop: int, tokens: slice) -> Tensor:
        rows: Callable[[str, int, int], Tensor] = getattr(self.held, "rows", self._rows)
        return torch.cat([rows(name, start, stop)[:, tokens] for name in self.names], dim=-1)

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.held[name][start:stop]


Layers = Mapping[int, Tensor | TokenLayer]
"""Layers by their number; tensors are (B, S, N, E)."""


def frames_of(layer: Tensor | TokenLayer, start: int, stop: int, first: int) -> Tensor:
    """`TokenLayer.frames`"""
    if isinstance(layer, TokenLayer):
        return layer.frames(start, stop, first)
    return layer.flatten(0, 1)[start:stop, first:]


def whole_of(layer: Tensor | TokenLayer) -> Tensor:
    """`TokenLayer.whole`"""
    return layer.whole() if isinstance(layer, TokenLayer) else layer


def special_of(layer: Tensor | TokenLayer, count: int) -> Tensor:
    """`TokenLayer.special`"""
    return layer.special(count) if isinstance(layer, TokenLayer) else layer[:, :, :count]


def batch_of(layer: Tensor | TokenLayer) -> tuple[int, int]:
    """B and S."""
    return layer.batch if isinstance(layer, TokenLayer) else (layer.shape[0], layer.shape[1])
