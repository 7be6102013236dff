"""Activations as codes: one scale per token, found at run time (ZeroQuant, Yao et al. 2022, §4.1), or one for all of them.

Symmetric: x ≈ scale · code with scale = max|x| / (2^(b-1)-1). Affine: x ≈ scale · (code - zero_point), whose range reaches from
minimum to maximum. Zeros get the code of zero; a row with NaN or Inf gets a non-finite scale, so that its output is non-finite
too, and where all rows share a scale all outputs are. Static activations know their scale before (`numbers.input_range`).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from vggtq.quant.numbers.input_range import TINY, InputRange
from vggtq.quant.numbers.scratch import scratch
from vggtq.quant.scheme.activations import Activations

_PIECE = 2**17


def token_scales(rows: Tensor, bits: int) -> Tensor:
    """rows: (T, C). Returns (T, 1) float32, positive."""
    return _peaks(rows).div_(2 ** (bits - 1) - 1).clamp_min_(TINY)


def clipped_scales(rows: Tensor, numbers: Activations) -> Tensor:
    """As token_scales, for ranges that reach to a share of the largest value (clip ratio, QuaRot, Ashkboos et al. 2024)."""
    return token_scales(rows, numbers.bits).mul_(numbers.clip)


def _peaks(rows: Tensor) -> Tensor:
    if rows.numel() <= _PIECE:  # launches cost more than passes
        peak = rows.abs().amax(-1, keepdim=True)
    else:  # amax and amin are several times faster than aminmax(dim) or a vector norm on a CPU
        peak = torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_())
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


def affine_token_parameters(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """As `affine_parameters` for every row of (T, C): scale (T, 1) float32, zero point (T, 1) float32, a whole number."""
    low = rows.amin(1, keepdim=True).to(torch.float32).clamp_max_(0)
    high = rows.amax(1, keepdim=True).to(torch.float32).clamp_min_(0)
    scale = ((high - low) / (2**bits - 2)).clamp_min_(TINY)
    return scale, torch.round(-low / scale)


def affine_token_codes(rows: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """round(x / scale) + zero_point as (T, C) uint8, on a CPU."""
    scaled = scratch("activations", rows.numel(), torch.float32).view(rows.shape)
    # Less 128, which fits int8, to which torch converts faster.
    codes = torch.mul(rows, scale.reciprocal(), out=scaled).add_(zero_point - 128).round_().to(torch.int8)
    return codes.view(torch.uint8).bitwise_xor_(0x80)


def fake_quantize(rows: Tensor, numbers: Activations) -> Tensor:
    """rows rounded to dynamic integers and brought back, (T, C), same dtype: what a simulated kernel multiplies."""
    if not rows.numel():
        return rows
    if numbers.scale_granularity == "per_tensor":
        return fake_quantize(rows.reshape(1, -1), replace(numbers, granularity="per_token")).view(rows.shape)
    if numbers.symmetric:
        scale = clipped_scales(rows, numbers)
        codes = torch.round(rows / scale)
        if numbers.clip < 1:
            codes.clamp_(-numbers.largest_code, numbers.largest_code)
        return (codes * scale).to(rows.dtype)
    scale, zero = affine_token_parameters(rows, numbers.bits)
    return ((torch.round(rows / scale + zero) - zero) * scale).to(rows.dtype)


def tensor_parameters(values: Tensor, bits: int, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point of unsigned codes for a whole float tensor; symmetric ones have their zero at 2^(bits-1)."""
    if not values.numel():
        return 1.0, 0
    if not symmetric:
        return affine_parameters(values, bits)
    scale = float(token_scales(values.reshape(1, -1), bits))
    return (scale, 2 ** (bits - 1)) if math.isfinite(scale) else (math.nan, 0)


def affine_parameters(values: Tensor, bits: int) -> tuple[float, int]:
    """Scale and zero point of codes 0 … 2^bits-1 for a whole float32 tensor; the range is widened to contain zero.

    NaN or Inf anywhere gives a scale of NaN. One code is left unused, so that rounding the zero point cannot overflow.
    """
    low, high = (float(value) for value in torch.aminmax(values))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (2**bits - 2), TINY)
    if not math.isfinite(scale):
        return math.nan, 0
    return scale, round(-low / scale)


def affine_codes(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(x / scale) + zero_point as uint8, in the memory order of x if it is dense. All codes have to fit."""
    return _codes_in_pieces(values, scale, zero_point, None)


def static_codes(values: Tensor, numbers: InputRange) -> tuple[Tensor, float, int]:
    """Codes of a CPU tensor, uint8, in the memory order of x if it is dense, their scale and zero point.

    What lies beyond the range saturates. NaN or Inf anywhere gives a scale of NaN.
    """
    scale, zero_point = float(numbers.scale), int(numbers.zero_point)
    codes = _codes_in_pieces(values, scale, zero_point, (numbers.smallest - 128, numbers.largest - 128))
    return codes, scale if _is_finite(values) else math.nan, zero_point


def _codes_in_pieces(values: Tensor, scale: float, zero_point: int, limits: tuple[int, int] | None) -> Tensor:
    codes = torch.empty_like(values, dtype=torch.int8)
    flat, flat_codes = _in_memory_order(values), _in_memory_order(codes)
    if flat is None or flat_codes is None:
        return _codes_in_pieces(values.contiguous(), scale, zero_point, limits)
    # In pieces that stay in the cache: a float tensor as large as the input would cost more in fresh pages than in sums.
    piece = scratch("activations", min(flat.numel(), _PIECE), torch.float32)
    for part, part_codes in zip(flat.split(_PIECE), flat_codes.split(_PIECE), strict=True):
        shifted = torch.mul(part, 1 / scale, out=piece[: part.numel()]).add_(zero_point - 128).round_()
        part_codes.copy_(shifted if limits is None else shifted.clamp_(*limits))
    return codes.view(torch.uint8).bitwise_xor_(0x80)


def _is_finite(values: Tensor) -> bool:
    """Whether nothing is NaN or infinite, for less than a test of each value costs; overflows beyond 10^19 count, too."""
    flat = _in_memory_order(values)
    if flat is None:
        return _is_finite(values.contiguous())
    return all(math.isfinite(float(torch.dot(part, part))) for part in flat.split(_PIECE))


def _in_memory_order(values: Tensor) -> Tensor | None:
    """All values of a dense tensor as one axis, without a copy."""
    if values.is_contiguous():
        return values.view(-1)
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).view(-1)
    return None
