"""The operations of quantized layers in an exported graph, as operators of torch, so that a translation can
name each of them.

Their results here are those that an engine has to compute. Nothing in this package predicts with them.
"""

import torch
from torch import Tensor


@torch.library.custom_op("vggtq_export::weight", mutates_args=())
def weight(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    shape: list[int],
    bits: int,
    signed: bool,
    group: int,
    by_row: bool,
) -> Tensor:
    """A dequantized weight of `shape`, float32: scale · (code - zero).

    by_row: (outputs, inputs); else (inputs, outputs). codes: int8, uint8 or int16 of `shape`, or with bits=4 uint8 with two
    codes each, the first in the low half. scale: (), (outputs,), or one for each `group` inputs in place of these. zero:
    codes of the same kind, one for each scale, or None.
    """
    values = _numbers(codes, bits, signed, shape)
    numbers = scale
    if zero is not None:
        zeros = _numbers(zero, bits, signed, list(scale.shape))
        zeros = _spread(zeros, group, by_row)
        values = values - zeros
    return values * _spread(numbers, group, by_row)


@weight.register_fake
def _(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    shape: list[int],
    bits: int,
    signed: bool,
    group: int,
    by_row: bool,
) -> Tensor:
    return scale.new_empty(shape)


def _numbers(codes: Tensor, bits: int, signed: bool, shape: list[int]) -> Tensor:
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten()[: torch.Size(shape).numel()]
        codes = (codes.to(torch.int16) ^ 8) - 8 if signed else codes
    return codes.to(torch.float32).reshape(shape)


def _spread(numbers: Tensor, group: int, by_row: bool) -> Tensor:
    if group:
        return numbers.repeat_interleave(group, dim=1 if by_row else 0)
    return numbers[:, None] if by_row and numbers.ndim else numbers


@torch.library.custom_op("vggtq_export::integer_matmul", mutates_args=())
def integer_matmul(inputs: Tensor, zero: int, codes: Tensor, weight_zero: Tensor | None) -> Tensor:
    """Σ (inputs - zero) · (codes - weight_zero) of integers as float32, (…, outputs).

    inputs: (…, inputs) uint8. codes: (inputs, outputs) int8 or uint8. weight_zero: (outputs,) of their type, or None.
    """
    right = codes.to(torch.float64)
    if weight_zero is not None:
        right = right - weight_zero.to(torch.float64)
    return ((inputs.to(torch.float64) - zero) @ right).to(torch.float32)


@integer_matmul.register_fake
def _(inputs: Tensor, zero: int, codes: Tensor, weight_zero: Tensor | None) -> Tensor:
    return inputs.new_empty([*inputs.shape[:-1], codes.shape[1]], dtype=torch.float32)


@torch.library.custom_op("vggtq_export::fixed_range", mutates_args=())
def fixed_range(inputs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Inputs rounded to 0 … 255 and brought back. scale: () float32; zero: () uint8."""
    codes = (torch.round(inputs / scale) + zero.to(inputs.dtype)).clamp(0, 255)
    return (codes - zero.to(inputs.dtype)) * scale


@fixed_range.register_fake
def _(inputs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.empty_like(inputs)
