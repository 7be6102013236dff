"""Packed integer weights of 2 to 8 bits on CUDA: the product of few rows straight from the codes, and a layer's float weight.

Few rows are bound by reading the weight, so reading an eighth of its bytes wins. Many rows are bound by arithmetic, where every
tile of rows would dequantize all weights again: there the layer is dequantized once, which costs about the time of reading
it, and cuBLAS multiplies. Codes lie as `packing.py` has them: row by row, one little-endian string of bits.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from vggtq.quant.kernels.cuda.triton_matmul import tile_of
from vggtq.quant.kernels.cuda.triton_tune import FEW_ROWS_TILES, autotune, rows_bucket


@torch.library.custom_op("vggtq::dequantize", mutates_args=())
def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    columns: int,
    group: int,
    dtype: torch.dtype,
) -> Tensor:
    """codes: (N, bytes) uint8. scale, zero_point: (1, 1), (N, 1), or (N, groups) with `group` columns each (0: whole rows).
    Without zero points codes are stored with +2^(bits-1). Returns the weight, (N, columns) in `dtype`.
    """
    weight = torch.empty(codes.shape[0], columns, dtype=dtype, device=codes.device)
    tile_n, tile_k = 32, 128
    grid = (triton.cdiv(weight.shape[0], tile_n), triton.cdiv(columns, tile_k))
    with torch.cuda.device_of(codes):
        _dequantize[grid](
            codes,
            scale,
            zero_point,
            weight,
            *_strides(codes, scale),
            weight.shape[0],
            columns,
            BITS=bits,
            GROUP=group,
            BLOCK_N=tile_n,
            BLOCK_K=tile_k,
        )
    return weight


@dequantize.register_fake
def _(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    columns: int,
    group: int,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty(codes.shape[0], columns, dtype=dtype, device=codes.device)


@torch.library.custom_op("vggtq::few_rows_linear", mutates_args=())
def few_rows_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group: int,
) -> Tensor:
    """x: (T, K) float; the rest as in `dequantize`. Returns x ŵᵀ + b, (T, N) in x's dtype; ŵ is rounded to that dtype first,
    as `dequantize` does, and sums are float32.
    """
    (rows, inner), outputs = x.shape, codes.shape[0]
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, tile["BLOCK_M"]) * triton.cdiv(outputs, tile["BLOCK_N"]),)

    with torch.cuda.device_of(x):
        _few_rows_linear[grid](
            x.contiguous(),
            codes,
            scale,
            zero_point,
            bias,
            out,
            *_strides(codes, scale),
            rows,
            outputs,
            inner,
            BUCKET=rows_bucket(rows),
            BITS=bits,
            GROUP=group,
        )
    return out


@few_rows_linear.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group: int,
) -> Tensor:
    return torch.empty(x.shape[0], codes.shape[0], dtype=x.dtype, device=x.device)


def _strides(codes: Tensor, scale: Tensor) -> tuple[int, int]:
    """From row to row of contiguous codes (bytes) and scales (0 where one scale serves all rows)."""
    return codes.shape[1], 0 if scale.shape[0] == 1 else scale.shape[1]


@triton.jit
def _dequantize(
    codes_ptr,
    scale_ptr,
    zero_ptr,
    weight_ptr,
    width,
    scale_stride,
    outputs,
    columns,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * BLOCK_K
    k = first + tl.arange(0, BLOCK_K)
    tile = _weights(
        codes_ptr,
        scale_ptr,
        zero_ptr,
        width,
        scale_stride,
        n,
        n < outputs,
        first,
        columns,
        BITS,
        GROUP,
        BLOCK_K,
    )
    out = weight_ptr + n.to(tl.int64)[:, None] * columns + k[None, :]
    inside = (n < outputs)[:, None] & (k < columns)[None, :]
    tl.store(out, tile.to(weight_ptr.dtype.element_ty), mask=inside)


@autotune(FEW_ROWS_TILES, ["BUCKET", "outputs", "inner", "BITS", "GROUP"])
@triton.jit(do_not_specialize=["rows"])
def _few_rows_linear(
    x_ptr,
    codes_ptr,
    scale_ptr,
    zero_ptr,
    bias_ptr,
    out_ptr,
    width,
    scale_stride,
    rows,
    outputs,
    inner,
    BUCKET: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    block_m, block_n = tile_of(tl.program_id(0), rows, outputs, BLOCK_M, BLOCK_N, GROUP_M)
    m, n = block_m * BLOCK_M + tl.arange(0, BLOCK_M), block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    in_m, in_n = m < rows, n < outputs
    x = x_ptr + m.to(tl.int64)[:, None] * inner + k[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, inner, BLOCK_K):
        a = tl.load(x + first, mask=in_m[:, None] & (k < inner - first)[None, :], other=0.0)
        tile = _weights(
            codes_ptr, scale_ptr, zero_ptr, width, scale_stride, n, in_n, first, inner, BITS, GROUP, BLOCK_K
        )
        # ieee: float32 inputs are not cut down to TF32
        total = tl.dot(a, tl.trans(tile.to(a.dtype)), total, input_precision="ieee")
    if bias_ptr is not None:
        total += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    out = out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.jit
def _weights(
    codes_ptr,
    scale_ptr,
    zero_ptr,
    width,
    scale_stride,
    n,
    in_n,
    first,
    columns,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """scale · (code - zero) of the rows n and the BLOCK_K columns from `first` on, float32; finite beyond the edges."""
    codes = _codes(codes_ptr + n.to(tl.int64)[:, None] * width, in_n, first, width, BITS, BLOCK_K)
    at = n.to(tl.int64)[:, None] * scale_stride
    inside = in_n[:, None]
    if GROUP > 0:
        # One group spans the tile where it can, and else each column has its own.
        spans: tl.constexpr = GROUP % BLOCK_K == 0
        k = first + tl.arange(0, 1 if spans else BLOCK_K)
        at += (k // GROUP)[None, :]
        inside &= (k < columns)[None, :]
    scale = tl.load(scale_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if zero_ptr is not None:
        zero = tl.load(zero_ptr + at, mask=inside, other=0).to(tl.float32)
        weights = (codes.to(tl.float32) - zero) * scale
    else:
        weights = (codes.to(tl.float32) - 2.0 ** (BITS - 1)) * scale
    return weights


@triton.jit
def _codes(row_ptr, in_n, first, width, BITS: tl.constexpr, BLOCK_K: tl.constexpr):
    """Unsigned codes, (rows, BLOCK_K); `first` is a multiple of BLOCK_K."""
    if BITS == 4:
        # Whole bytes, so that loads are wide; the first code of two is in the low half.
        byte = first // 2 + tl.arange(0, BLOCK_K // 2)
        two = tl.load(row_ptr + byte[None, :], mask=in_n[:, None] & (byte < width)[None, :], other=0)
        codes = tl.reshape(tl.join(two & 15, two >> 4), (two.shape[0], BLOCK_K))
    else:
        column = first + tl.arange(0, BLOCK_K)
        bit = column * BITS
        byte = column if BITS == 8 else bit // 8  # said apart, so that the compiler sees neighbours
        codes = tl.load(row_ptr + byte[None, :], mask=in_n[:, None] & (byte < width)[None, :], other=0)
        if BITS < 8:
            codes = codes.to(tl.int32)
            if 8 % BITS != 0:  # a code may reach into the next byte
                more = in_n[:, None] & (byte + 1 < width)[None, :]
                codes |= tl.load(row_ptr + byte[None, :] + 1, mask=more, other=0).to(tl.int32) << 8
            codes = (codes >> (bit % 8)[None, :]) & (2**BITS - 1)
    return codes
