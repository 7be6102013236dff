"""Frames of many photographs, kept as bytes in memory or in a temporary file, and made into network input when asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggtq.files.spill import Kept, Overflow

FEWER_IMAGES = "use fewer images or a smaller image_size=…"
ALL_IN_MEMORY = 2**62  # bytes


class Frames:
    """S frames as the network takes them: `frames[i]` is one (3, H, W), `frames[a:b]` and `frames[[i, j]]` are some
    (n, 3, H, W), float32 RGB in [0, 1].

    H and W are those of the largest frame; a smaller one lies in the middle, on white. memory_bytes: what all of them may take
    before others go to a temporary file.
    """

    def __init__(self, memory_bytes: int = ALL_IN_MEMORY) -> None:
        self._overflow = Overflow(memory_bytes, FEWER_IMAGES, "images")
        self._kept: list[Kept] = []
        self.size_hw = (0, 0)

    def append(self, pixels: NDArray[np.uint8], height: int, width: int) -> None:
        """(h, w, 3), in a frame of height × width pixels. Raises DiskFull."""
        self._kept.append(self._overflow.keep(torch.from_numpy(pixels.copy())))
        self.size_hw = max(height, self.size_hw[0]), max(width, self.size_hw[1])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(S, 3, H, W)"""
        return (len(self), 3, *self.size_hw)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Tensor:
        if isinstance(which, int):
            return self._placed(which, torch.ones(self.shape[1:]))
        chosen = range(len(self))[which] if isinstance(which, slice) else which
        found = torch.ones(len(chosen), *self.shape[1:])
        for place, frame in enumerate(chosen):
            self._placed(frame, found[place])
        return found

    def _placed(self, frame: int, canvas: Tensor) -> Tensor:
        """On a white canvas (3, H, W), which is returned; the odd pixel of a margin goes right and below."""
        pixels = self._overflow.get(self._kept[frame]).permute(2, 0, 1)
        height, width = pixels.shape[-2:]
        top, left = (self.size_hw[0] - height) // 2, (self.size_hw[1] - width) // 2
        canvas[:, top : top + height, left : left + width] = pixels.float() / 255
        return canvas
