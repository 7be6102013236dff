"""Inputs that are rounded per token for an 8-bit product on CUDA, alone or together with what comes before them.

LayerNorm (Ba et al. 2016) and exact GELU (Hendrycks & Gimpel 2016) can run in the same pass, in float32: their results never
travel through memory, and are not rounded to 16 bits on the way either. Eager mode launches one Triton kernel; under
torch.compile the same formulas are left to the compiler, which fuses them with whatever else stands before them.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.quant.numbers.float8 import quantize_tokens
from vggtq.quant.numbers.input_codes import token_scales
from vggtq.quant.scheme.activations import Activations

# One program holds a whole row, and would spill registers with longer ones. Up to here int32 holds all sums of products, too:
# 2 · 128 · 127 · 2^15 < 2^31 with zero points.
LARGEST_ROW = 2**15


class QuantizedRows(NamedTuple):
    """An input x (…, C) as T rows of codes: x ≈ scale · codes. A quantized layer takes it in place of x."""

    codes: Tensor  # (T, C) int8 or float8_e4m3fn
    scale: Tensor  # (T, 1) float32
    sums: Tensor  # (T,) int32, Σ codes of a row; (0,) for float8
    shape: torch.Size
    dtype: torch.dtype  # of x


def quantize_rows(x: Tensor, numbers: Activations) -> QuantizedRows:
    """x: (…, C) float."""
    if torch.compiler.is_compiling():
        return _traced(x.to(torch.float32), numbers, x)
    return _launched(x, numbers, "none")


def layer_norm_rows(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float, numbers: Activations
) -> QuantizedRows:
    """LayerNorm over the last axis of x (…, C), then `quantize_rows`. gain, shift: (C,)."""
    if torch.compiler.is_compiling():
        gain, shift = (None if w is None else w.to(torch.float32) for w in (gain, shift))
        return _traced(F.layer_norm(x.to(torch.float32), x.shape[-1:], gain, shift, eps), numbers, x)
    return _launched(x, numbers, "layer_norm", gain, shift, eps)


def gelu_rows(x: Tensor, numbers: Activations) -> QuantizedRows:
    """x · Φ(x) with the exact error function for x (…, C), then `quantize_rows`."""
    if torch.compiler.is_compiling():
        return _traced(F.gelu(x.to(torch.float32)), numbers, x)
    return _launched(x, numbers, "gelu")


def _launched(
    x: Tensor,
    numbers: Activations,
    prologue: str,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 0.0,
) -> QuantizedRows:
    from vggtq.quant.kernels.cuda import triton_rows

    float8 = not numbers.entry.integer
    rows = x.reshape(-1, x.shape[-1])
    codes, scale, sums = triton_rows.quantize_rows(rows, gain, shift, eps, numbers.bits, float8, prologue)
    return QuantizedRows(codes, scale, sums, x.shape, x.dtype)


def _traced(values: Tensor, numbers: Activations, x: Tensor) -> QuantizedRows:
    rows = values.reshape(-1, x.shape[-1])
    if not numbers.entry.integer:
        codes, scale = quantize_tokens(rows)
        sums = torch.empty(0, dtype=torch.int32, device=x.device)
    else:
        scale = token_scales(rows, numbers.bits)
        codes = torch.round(rows / scale).to(torch.int8)
        sums = codes.sum(1, dtype=torch.int32)
    return QuantizedRows(codes, scale, sums, x.shape, x.dtype)
