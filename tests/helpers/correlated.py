"""Weights whose inputs are correlated, and what rounding to the nearest code makes of them."""

import torch
from torch import Tensor

from vggtq.quant.numbers.rounding import dequantize, quantization_parameters, round_to_codes
from vggtq.quant.scheme.weights import Weights


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, correlated inputs (400, C) whose channels differ in size, and their Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(-1, 1, columns)
    inputs = torch.randn(400, columns, generator=generator) @ mixing / columns**0.5
    return torch.randn(rows, columns, generator=generator), inputs, inputs.T @ inputs / 400


def nearest(rows: Tensor, spec: Weights) -> Tensor:
    scale, zero = quantization_parameters(rows, spec)
    return dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
