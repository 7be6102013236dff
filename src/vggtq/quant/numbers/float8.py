"""8-bit floats, e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): 1 sign, 4 exponent, 3 mantissa bits, ±448, no infinity.

x ≈ scale · code with scale = max|row| / 448, so that the largest value of a row is the largest code. Rules: nearest code,
halves to even; what lies beyond ±448 saturates; NaN stays NaN; a row of zeros has scale 1 as a weight and the smallest
scale as an activation, codes 0 either way; a row of activations with NaN or Inf gets a non-finite scale, so that its output
is non-finite.
"""

import torch
from torch import Tensor

from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.rounding import block_of, row_blocks
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.weights import Weights

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0


def to_float8(values: Tensor) -> Tensor:
    """Nearest e4m3 codes of float values of any shape; saturates at ±448 where torch's own cast gives NaN."""
    return values.clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)


def weight_scales(rows: Tensor, per_tensor: bool) -> Tensor:
    """rows: (R, C), finite. Returns (1, 1) or (R, 1) float32, positive."""
    peak = rows.abs().amax().view(1, 1) if per_tensor else rows.abs().amax(1, keepdim=True)
    scale = peak.to(torch.float32) / FLOAT8_MAX
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantize_tokens(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows: (T, C). Returns codes (T, C) float8 and scale (T, 1) float32, positive: one scale per token."""
    values = rows.to(torch.float32)
    scale = (values.abs().amax(1, keepdim=True) / FLOAT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return to_float8(values / scale), scale


def encode(rows: Tensor, spec: Weights, rounding: Rounding) -> dict[str, Tensor]:
    """As `Arithmetic.encode`."""
    scale = weight_scales(rows, spec.granularity == "per_tensor")
    codes = [to_float8(rows[block].to(torch.float32) / block_of(scale, block)) for block in row_blocks(rows)]
    return {"codes": torch.cat(codes), "scale": scale}


def decode(packed: PackedWeight, block: slice) -> Tensor:
    """As `Arithmetic.decode`."""
    assert packed.scale is not None
    return packed.codes[block].to(torch.float32).mul_(block_of(packed.scale, block))


def round_inputs(rows: Tensor, numbers: Activations) -> Tensor:
    """rows rounded to e4m3 per token and brought back, (T, C) float32."""
    codes, scale = quantize_tokens(rows)
    return codes.to(torch.float32) * scale
