"""Dynamic activations: one symmetric scale per token, found at run time (ZeroQuant, Yao et al. 2022, §4.1).

x ≈ scale · code with scale = max|row| / (2^(b-1)-1). A row of zeros gets code 0; a row with NaN or Inf gets a non-finite
scale, so that its output is non-finite too.
"""

import torch
from torch import Tensor


def token_scales(rows: Tensor, bits: int) -> Tensor:
    """rows: (T, C). Returns (T, 1) float32, positive."""
    # amax and amin are several times faster than aminmax(dim) or a vector norm on a CPU.
    peak = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).to(torch.float32)
    return (peak / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(torch.float32).tiny)


def token_codes(rows: Tensor, scale: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """round(x / scale) + offset as (T, C) `dtype`; the offset makes all codes positive. Halves round up.

    One product, one sum, one truncation: on a CPU these passes over the input cost as much as a small product itself.
    """
    return torch.addcmul(rows.new_full((), offset + 0.5), rows, scale.reciprocal()).to(dtype)


def fake_quantize(rows: Tensor, bits: int) -> Tensor:
    """rows rounded to `bits` and brought back, (T, C), same dtype: what a simulated kernel multiplies."""
    scale = token_scales(rows, bits)
    return (torch.round(rows / scale) * scale).to(rows.dtype)
