"""Dynamic quantization of activations in one pass on CUDA: a row is read once, its codes and its scale are written once.

Codes and scales are bit for bit those of `torch.round(x / scale)` and `float8.py`. A LayerNorm or GELU before it runs on the
row while it is in registers. Without CUDA, TRITON_INTERPRET=1 runs the same kernel on CPU tensors.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from vggtq.quant.numbers.float8 import FLOAT8, FLOAT8_MAX


@torch.library.custom_op("vggtq::quantize_rows", mutates_args=())
def quantize_rows(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    bits: int,
    float8: bool,
    prologue: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """rows: (T, C). prologue: none, gelu, or layer_norm with gain and shift (C,). Returns codes (T, C) int8 or float8, scale
    (T, 1) float32 and sums of codes (T,) int32, none of them for float8.
    """
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    codes, scale, sums = _outputs(rows, float8)
    if rows.numel() > 0:
        width = triton.next_power_of_2(rows.shape[1])
        with torch.cuda.device_of(rows):
            _quantize_rows[(rows.shape[0],)](
                rows,
                gain,
                shift,
                codes.view(torch.uint8) if float8 else codes,
                scale,
                sums,
                rows.stride(0),
                rows.shape[1],
                eps,
                FLOAT8_MAX if float8 else float(2 ** (bits - 1) - 1),
                PROLOGUE=prologue,
                FLOAT8=float8,
                WIDTH=width,
                num_warps=4 if width <= 2048 else 8,
            )
    return codes, scale, sums


@quantize_rows.register_fake
def _(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    bits: int,
    float8: bool,
    prologue: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(rows, float8)


def _outputs(rows: Tensor, float8: bool) -> tuple[Tensor, Tensor, Tensor]:
    count, device = rows.shape[0], rows.device
    codes = torch.empty(rows.shape, dtype=FLOAT8 if float8 else torch.int8, device=device)
    scale = torch.empty(count, 1, dtype=torch.float32, device=device)
    return codes, scale, torch.empty(0 if float8 else count, dtype=torch.int32, device=device)


@triton.jit
def _quantize_rows(
    x_ptr,
    gain_ptr,
    shift_ptr,
    codes_ptr,
    scale_ptr,
    sums_ptr,
    x_stride,
    columns,
    eps,
    qmax,
    PROLOGUE: tl.constexpr,
    FLOAT8: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < columns
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if PROLOGUE == "layer_norm":
        x = _layer_norm(x, gain_ptr, shift_ptr, column, inside, columns, eps)
    elif PROLOGUE == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    broken = tl.max((x != x).to(tl.int32), 0) > 0  # a maximum alone would pass over NaN
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(x), 0), qmax), 1.1754943508222875e-38)
    tl.store(scale_ptr + row, tl.where(broken, float("nan"), scale))
    value = tl.div_rn(x, scale)
    # The scale says that the row is broken; its codes need only be codes.
    value = tl.where(value == value, value, 0.0)
    out = codes_ptr + row * columns + column
    if FLOAT8:
        tl.store(out, _float8_bits(value), mask=inside)
    else:
        # Adding and taking away 1.5 · 2²³ leaves the nearest integer, halves to even, as torch.round has it.
        code = ((value + 12582912.0) - 12582912.0).to(tl.int32)
        tl.store(out, code.to(tl.int8), mask=inside)
        tl.store(sums_ptr + row, tl.sum(code, 0))


@triton.jit
def _layer_norm(x, gain_ptr, shift_ptr, column, inside, columns, eps):
    centred = tl.where(inside, x - tl.sum(x, 0) / columns, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred, 0) / columns + eps)
    if gain_ptr is not None:
        y = y * tl.load(gain_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if shift_ptr is not None:
        y = y + tl.load(shift_ptr + column, mask=inside, other=0.0).to(tl.float32)
    return y


@triton.jit
def _float8_bits(value):
    """Bytes of e4m3 (1 sign, 4 exponent, 3 mantissa bits, bias 7), nearest, halves to even, ±448 at most; value is no NaN.

    By hand, because Triton's interpreter rounds float8 wrongly where the mantissa carries; and so any GPU can do it.
    """
    bits = value.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    magnitude = tl.minimum(tl.abs(value), 448.0)
    bits = magnitude.to(tl.int32, bitcast=True)
    # Half of the bits that fall off, minus one where that would round a half to odd, carries into what stays.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - ((127 - 7) << 3)
    # Below 2⁻⁶ codes are multiples of 2⁻⁹; the float32 sum with 1.5 · 2²³ · 2⁻⁹ keeps just those.
    subnormal = ((magnitude * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    return (sign | tl.where(magnitude < 0.015625, subnormal, normal)).to(tl.uint8)
