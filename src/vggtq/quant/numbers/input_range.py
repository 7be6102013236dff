"""The scale and zero point that all inputs of a layer share when its activations are static: x ≈ scale · (code - zero_point).

Codes are 0 … 2^b-1; symmetric ones leave out 0 and have their zero in the middle, 2^(b-1). What lies beyond the range
saturates. A kernel that has fewer bits than the numbers takes the same range in its own steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vggtq.errors import QuantizationError

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class InputRange:
    """scale: (1,) float32, positive. zero_point: (1,) int32 in 0 … 2^bits-1."""

    scale: Tensor
    zero_point: Tensor
    bits: int
    symmetric: bool

    BYTES: ClassVar[int] = 8

    @classmethod
    def between(cls, low: float, high: float, bits: int, symmetric: bool) -> "InputRange":
        """The numbers that reach from `low` to `high`, widened to contain zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if symmetric:
            scale, zero = max(-low, high) / (2 ** (bits - 1) - 1), 2 ** (bits - 1)
        else:
            scale = (high - low) / (2**bits - 1)
            zero = round(-low / scale) if scale > TINY else 0
        return cls(
            scale=torch.tensor([max(scale, TINY)]),
            zero_point=torch.tensor([zero], dtype=torch.int32),
            bits=bits,
            symmetric=symmetric,
        )

    def check(self) -> None:
        """Raises QuantizationError for numbers that nothing can be rounded with."""
        scale, zero = float(self.scale), int(self.zero_point)
        if not (0 < scale < float("inf") and 0 <= zero <= self.largest):
            raise QuantizationError(f"inputs cannot be rounded with scale {scale:g} and zero point {zero}")

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value that has a code."""
        scale, zero = float(self.scale), int(self.zero_point)
        return scale * (self.smallest - zero), scale * (self.largest - zero)

    @property
    def smallest(self) -> int:
        """The smallest code."""
        return 1 if self.symmetric else 0

    @property
    def largest(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def round_trip(self, values: Tensor) -> Tensor:
        """Values of any shape rounded to codes and brought back, same dtype; NaN and infinite ones become NaN."""
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        scale, zero = (t.to(exact.device, exact.dtype) for t in (self.scale, self.zero_point))
        codes = torch.round(exact / scale).add_(zero).clamp_(self.smallest, self.largest)
        # The last term is zero, or NaN where saturation would have hidden what is broken.
        return codes.sub_(zero).mul_(scale).add_(exact - exact).to(values.dtype)

    def with_bits(self, bits: int) -> "InputRange":
        """The same range in codes of fewer bits."""
        if bits >= self.bits:
            return self
        return InputRange.between(*self.ends, bits, self.symmetric)
