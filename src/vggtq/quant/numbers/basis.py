"""The operations on a layer's inputs: a change of basis, scales per channel and a Hadamard rotation; and a
low-rank branch.
"""

from dataclasses import dataclass

from torch import Tensor

from vggtq.quant.numbers.hadamard import rotate


@dataclass(frozen=True)
class InputTransform:
    """scale: (C,) float32 or None; rotation: width of the Hadamard blocks, 0 for none.

    merged: width of the blocks that inputs have been through when they come (`walk.fold`); it divides `rotation`.
    rotation_first: whether the scale is that of rotated inputs.
    """

    scale: Tensor | None = None
    rotation: int = 0
    merged: int = 0
    rotation_first: bool = False

    def inputs(self, x: Tensor) -> Tensor:
        """t(x), (…, C); of merged blocks, the rest of it."""
        if self.rotation_first:
            return self._divided(self._turned(x))
        return self._turned(self._divided(x))

    def weight(self, rows: Tensor) -> Tensor:
        """T(W), (R, C)."""
        if self.rotation and self.rotation_first:
            rows = rotate(rows, self.rotation)
        rows = rows if self.scale is None else rows * self.scale
        return rotate(rows, self.rotation) if self.rotation and not self.rotation_first else rows

    def original(self, rows: Tensor) -> Tensor:
        """W from T(W), (R, C): blocks of a rotation are their own inverse."""
        if self.rotation and not self.rotation_first:
            rows = rotate(rows, self.rotation)
        rows = rows if self.scale is None else rows / self.scale
        return rotate(rows, self.rotation) if self.rotation and self.rotation_first else rows

    def _divided(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x / self.scale.to(x.dtype)

    def _turned(self, x: Tensor) -> Tensor:
        stride = max(self.merged, 1)
        return rotate(x, self.rotation // stride, stride) if self.rotation > self.merged else x

    def gram(self, gram: Tensor) -> Tensor:
        """The Gram matrix (C, C) of t(x), from that of x."""
        half = self.inputs(gram)
        return self.inputs(half.T)

    def __bool__(self) -> bool:
        return self.scale is not None or self.rotation > self.merged


@dataclass(frozen=True)
class LowRank:
    """down: (r, C), up: (R, r), float16."""

    down: Tensor
    up: Tensor

    def branch(self, x: Tensor) -> Tensor:
        """(…, C) to (…, R), in the dtype of x."""
        return (x @ self.down.to(x.dtype).T) @ self.up.to(x.dtype).T

    def weight(self) -> Tensor:
        """U D, (R, C) float32."""
        return self.up.float() @ self.down.float()

    @property
    def stored_bytes(self) -> int:
        return 2 * (self.down.numel() + self.up.numel())
