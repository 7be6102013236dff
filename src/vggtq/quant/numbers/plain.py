"""Floats without scales: float16, bfloat16, float32."""

import torch
from torch import Tensor

from vggtq.errors import QuantizationError
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.weights import Weights


def encode(rows: Tensor, spec: Weights, rounding: Rounding) -> dict[str, Tensor]:
    """As `Arithmetic.encode`. Raises QuantizationError for weights beyond the format's range."""
    dtype = getattr(torch, spec.format)
    codes = rows.to(dtype)
    if not torch.isfinite(codes).all():
        raise QuantizationError(
            f"the largest weight, {float(rows.abs().amax()):.3g}, is beyond {spec.format}'s {torch.finfo(dtype).max:.3g}; "
            f"use scheme=bf16, or keep the layer in float with scheme.layers.exclude"
        )
    return {"codes": codes}


def decode(packed: PackedWeight, block: slice) -> Tensor:
    """As `Arithmetic.decode`."""
    return packed.codes[block].to(torch.float32)
