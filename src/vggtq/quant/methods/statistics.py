"""The statistics that calibration collects of a layer's inputs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vggtq.quant.numbers.hadamard import rotate

Layout = tuple[int, int]
"""Rows of a layer's input that belong together, the tokens of a frame, and how many of them, from the first, are special."""


@dataclass
class InputStatistics:
    """gram: (C, C) float32, mean of x xᵀ over rows; mean_abs, largest: (C,), mean and maximum of |x| per channel.

    rotation: width of the Hadamard blocks that mean_abs and largest are seen behind, 0 for none.
    special, ordinary: (C,), the maximum over tokens that stand for no patch (camera, class and register tokens) and over all
    others. Zero where there are none.
    """

    gram: Tensor
    mean_abs: Tensor
    largest: Tensor
    rows: int = 0
    special: Tensor | None = None
    ordinary: Tensor | None = None
    rotation: int = 0

    @classmethod
    def empty(cls, columns: int, device: torch.device, rotation: int = 0) -> "InputStatistics":
        gram, vectors = torch.zeros(columns, columns, device=device), torch.zeros(4, columns, device=device)
        return cls(gram, vectors[0], vectors[1], 0, vectors[2], vectors[3], rotation)

    def update(self, x: Tensor, layout: Layout = (1, 0)) -> None:
        """x: (…, C)."""
        new = x.detach().reshape(-1, x.shape[-1]).float()
        total = self.rows + len(new)
        magnitude = new.abs()
        rotated = rotate(new, self.rotation).abs() if self.rotation else magnitude
        self.gram.mul_(self.rows / total).addmm_(new.T, new, alpha=1 / total)
        self.mean_abs.mul_(self.rows / total).add_(rotated.sum(0), alpha=1 / total)
        self.largest = torch.maximum(self.largest, rotated.amax(0))
        self.rows = total
        frames, count = magnitude.unflatten(0, (-1, layout[0])), layout[1]
        self.special = _largest(self.special, frames[:, :count])
        self.ordinary = _largest(self.ordinary, frames[:, count:])

    def rotated(self) -> "InputStatistics":
        """With the Gram matrix of rotated inputs as well."""
        half = rotate(self.gram, self.rotation)
        return replace(self, gram=rotate(half.T.contiguous(), self.rotation))

    @property
    def special_ratio(self) -> float | None:
        """The largest |x| of special tokens over that of all others; None where one kind is missing."""
        if self.special is None or self.ordinary is None:
            return None
        special, ordinary = float(self.special.amax()), float(self.ordinary.amax())
        return special / ordinary if special > 0 and ordinary > 0 else None


def _largest(known: Tensor | None, magnitude: Tensor) -> Tensor | None:
    if known is None or magnitude.shape[1] == 0:
        return known
    return torch.maximum(known, magnitude.amax((0, 1)))


Statistics = dict[str, InputStatistics]
