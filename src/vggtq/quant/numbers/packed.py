"""A weight as it is stored: packed codes, scales, zero points, and the data that accompany it to the layer that
multiplies by it.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vggtq.quant.numbers.basis import InputTransform, LowRank
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packing import unpack
from vggtq.quant.numbers.rounding import row_blocks
from vggtq.quant.scheme.weights import Weights

STORED = ("codes", "scale", "zero_point", "tensor_scale")


@dataclass(frozen=True)
class PackedWeight:
    """R rows of C weights.

    codes: (R, ceil(C·bits/8)) uint8, or (R, C) float16/bfloat16/float8_e4m3fn for float formats. scale: (1, 1),
    (R, 1) or (R, groups), zero_point likewise (uint8, int32 for 16 bits) or None. Symmetric codes are stored
    with +2^(bits-1). 4-bit floats: codes packed like integers, scale (R, blocks) uint8 for e8m0 or
    float8_e4m3fn, and NVFP4's tensor_scale (1, 1) float32. Progressive scales: scale (R, groups) uint8, and
    tensor_scale (R, 1) float32 of the channels. transform: applied to the layer's inputs first, because the
    weight was rounded in another basis. input_range: the range that they are rounded with then, where
    activations are static and the range is known already. low_rank: the branch that is added to the product, in
    that basis too; none of the tensors here. exact: the weight that was rounded, (R, C), where it is to be
    trained on; kernels do not use it. signal, noise: Σw² and Σ(w - ŵ)², float64 sums over the whole weight.
    identity: the same for layers that share a weight.
    """

    codes: Tensor
    scale: Tensor | None
    zero_point: Tensor | None
    spec: Weights
    columns: int
    signal: float
    noise: float
    notes: tuple[str, ...] = ()
    identity: int = field(default_factory=itertools.count().__next__)
    transform: InputTransform = field(default_factory=InputTransform)
    low_rank: LowRank | None = None
    input_range: InputRange | None = None
    tensor_scale: Tensor | None = None
    exact: Tensor | None = None

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        spec: Weights,
        columns: int,
        signal: float = 0.0,
        noise: float = 0.0,
        **others: Any,
    ) -> "PackedWeight":
        """The weight that has these `tensors`; others: further fields."""
        stored: dict[str, Any] = {name: tensors.get(name) for name in STORED}
        return cls(**stored, spec=spec, columns=columns, signal=signal, noise=noise, **others)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file has to keep, by name."""
        named = {name: getattr(self, name) for name in STORED}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def stored_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def sqnr_db(self) -> float:
        """10 log10(Σw² / Σ(w - ŵ)²); infinite where nothing was lost."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else math.nan

    def integer_codes(self, block: slice = slice(None)) -> Tensor:
        """Rows of codes in qmin … qmax, (r, C) int32."""
        return unpack(self.codes[block], self.spec.bits, self.columns).to(torch.int32) - self.offset

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight in `dtype`, (R, C)."""
        rows = torch.empty(self.codes.shape[0], self.columns, dtype=dtype, device=self.codes.device)
        decode = self.spec.entry.computes.decode
        for block in row_blocks(rows):
            rows[block] = decode(self, block)
        return rows

    @property
    def offset(self) -> int:
        """The offset that makes symmetric codes unsigned when they are stored."""
        return 2 ** (self.spec.bits - 1) if self.spec.symmetric else 0
