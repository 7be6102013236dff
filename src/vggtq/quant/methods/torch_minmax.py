"""Weights as `torch.ao.quantization.quantize_dynamic` rounds them: one scale for all, from the largest magnitude over 127.5."""

from typing import Any

import torch
from torch import Tensor

from vggtq.quant.scheme.weights import Weights

HALF_RANGE = 127.5  # of the 256 codes -128 … 127
SMALLEST = torch.finfo(torch.float32).eps  # of a scale


def parameters(rows: Tensor, _spec: Weights) -> tuple[Tensor, None]:
    """rows: (R, C) float32. Returns the scale, (1, 1) float32."""
    return (rows.abs().amax() / HALF_RANGE).clamp(min=SMALLEST).reshape(1, 1), None


def codes(rows: Tensor, scale: Tensor, *_: Any) -> Tensor:
    """(R, C) int32 in -128 … 127; PyTorch multiplies by the inverse of the scale."""
    return torch.round(rows * (1 / scale)).clamp(-128, 127).to(torch.int32)
