"""Dynamic activations: one symmetric scale per token, found at run time (ZeroQuant, Yao et al. 2022, §4.1), or one affine
scale per image for convolutions.

x ≈ scale · code with scale = max|row| / (2^(b-1)-1). A row of zeros gets code 0; a row with NaN or Inf gets a non-finite
scale, so that its output is non-finite too.
"""

import math

import torch
from torch import Tensor

from vggtq.quant.scratch import scratch

_PIECE = 2**17


def token_scales(rows: Tensor, bits: int) -> Tensor:
    """rows: (T, C). Returns (T, 1) float32, positive."""
    return _peaks(rows).div_(2 ** (bits - 1) - 1).clamp_min_(torch.finfo(torch.float32).tiny)


def row_peaks(rows: Tensor) -> Tensor:
    """max|row|, (T, 1) float32, positive."""
    return _peaks(rows).clamp_min_(torch.finfo(torch.float32).tiny)


def _peaks(rows: Tensor) -> Tensor:
    if rows.numel() <= _PIECE:  # launches cost more than passes
        peak = rows.abs().amax(1, keepdim=True)
    else:  # amax and amin are several times faster than aminmax(dim) or a vector norm on a CPU
        peak = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_())
    return peak.to(torch.float32)


def token_codes(rows: Tensor, scale: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """round(x / scale) + offset as (T, C) `dtype`; the offset makes all codes positive.

    These passes over the input cost as much as a small product itself. On a CPU they reuse memory, and convert by way of int8,
    which torch does four times faster than to uint8; elsewhere product and sum are one kernel, and halves round up.
    """
    if rows.device.type != "cpu" or dtype != torch.uint8:
        return torch.addcmul(rows.new_full((), offset + 0.5), rows, scale.reciprocal()).to(dtype)
    scaled = scratch("activations", rows.numel(), torch.float32).view(rows.shape)
    codes = torch.mul(rows, scale.reciprocal(), out=scaled).round_().to(torch.int8)
    return codes.view(torch.uint8).add_(offset)  # modulo 256


def fake_quantize(rows: Tensor, bits: int) -> Tensor:
    """rows rounded to `bits` and brought back, (T, C), same dtype: what a simulated kernel multiplies."""
    scale = token_scales(rows, bits)
    return (torch.round(rows / scale) * scale).to(rows.dtype)


def affine_parameters(values: Tensor, bits: int) -> tuple[float, int]:
    """Scale and zero point of codes 0 … 2^bits-1 for a whole float32 tensor; the range is widened to contain zero.

    NaN or Inf anywhere gives a scale of NaN. One code is left unused, so that rounding the zero point cannot overflow.
    """
    low, high = (float(value) for value in torch.aminmax(values))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (2**bits - 2), torch.finfo(torch.float32).tiny)
    if not math.isfinite(scale):
        return math.nan, 0
    return scale, round(-low / scale)


def affine_codes(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(x / scale) + zero_point as uint8, in the memory order of x if it is dense."""
    codes = torch.empty_like(values, dtype=torch.int8)
    flat, flat_codes = _in_memory_order(values), _in_memory_order(codes)
    if flat is None or flat_codes is None:
        return affine_codes(values.contiguous(), scale, zero_point)
    # In pieces that stay in the cache: a float tensor as large as the input would cost more in fresh pages than in sums.
    piece = scratch("activations", min(flat.numel(), _PIECE), torch.float32)
    for part, part_codes in zip(flat.split(_PIECE), flat_codes.split(_PIECE), strict=True):
        shifted = torch.mul(part, 1 / scale, out=piece[: part.numel()]).add_(zero_point - 128)
        part_codes.copy_(shifted.round_())
    return codes.view(torch.uint8).bitwise_xor_(0x80)


def _in_memory_order(values: Tensor) -> Tensor | None:
    """All values of a dense tensor as one axis, without a copy."""
    if values.is_contiguous():
        return values.view(-1)
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).view(-1)
    return None
