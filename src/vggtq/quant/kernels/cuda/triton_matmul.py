"""The product of 8-bit codes on CUDA, with scales, bias and the weight's zero point applied before anything is stored.

    y[t, n] = s[t] · r[n] · (Σ_k q[t, k] c[n, k] - z[n] Σ_k q[t, k]) + b[n]

Integers are summed in int32, exactly (Jacob et al. 2018, eq. 7: a zero point costs one rank-1 update); e4m3 codes in float32.
torch._int_mm would store the int32 sums, four bytes each, and leave the rest to further passes over them.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from vggtq.quant.kernels.cuda.triton_tune import MATMUL_TILES, autotune, rows_bucket


@torch.library.custom_op("vggtq::scaled_matmul", mutates_args=())
def scaled_matmul(
    codes: Tensor,
    scale: Tensor,
    sums: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """codes (T, K) and weight (N, K): int8, or float8_e4m3fn; contiguous. scale: (T, 1). weight_scale: (N, 1), or (1, 1) for
    all. weight_zero: likewise, uint8, of codes 128 higher than `weight` has them; it needs sums (T,). bias: (N,).

    Returns (T, N) in `dtype`.
    """
    out = torch.empty(codes.shape[0], weight.shape[0], dtype=dtype, device=codes.device)
    rows, (outputs, inner) = codes.shape[0], weight.shape
    if out.numel() == 0:
        return out

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, tile["BLOCK_M"]) * triton.cdiv(outputs, tile["BLOCK_N"]),)

    with torch.cuda.device_of(codes):
        _scaled_matmul[grid](
            codes.contiguous(),
            weight,
            out,
            scale,
            sums,
            weight_scale,
            weight_zero,
            bias,
            rows,
            outputs,
            inner,
            0 if weight_scale.numel() == 1 else 1,
            BUCKET=rows_bucket(rows),
            INTEGER=weight.dtype == torch.int8,
        )
    return out


@scaled_matmul.register_fake
def _(
    codes: Tensor,
    scale: Tensor,
    sums: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty(codes.shape[0], weight.shape[0], dtype=dtype, device=codes.device)


@autotune(MATMUL_TILES, ["BUCKET", "outputs", "inner", "INTEGER"])
@triton.heuristics({"EVEN": lambda args: args["inner"] % args["BLOCK_K"] == 0})
@triton.jit(do_not_specialize=["rows"])
def _scaled_matmul(
    x_ptr,
    w_ptr,
    out_ptr,
    scale_ptr,
    sums_ptr,
    w_scale_ptr,
    w_zero_ptr,
    bias_ptr,
    rows,
    outputs,
    inner,
    w_scale_stride,
    BUCKET: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN: tl.constexpr,
):
    block_m, block_n = tile_of(tl.program_id(0), rows, outputs, BLOCK_M, BLOCK_N, GROUP_M)
    m, n = block_m * BLOCK_M + tl.arange(0, BLOCK_M), block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows beyond the edge read row 0 again instead of being masked in every load; they are not stored.
    x = x_ptr + tl.where(m < rows, m, 0).to(tl.int64)[:, None] * inner + k[None, :]
    w = w_ptr + tl.where(n < outputs, n, 0).to(tl.int64)[None, :] * inner + k[:, None]
    SUM: tl.constexpr = tl.int32 if INTEGER else tl.float32
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM)
    for start in range(0, inner, BLOCK_K):
        if EVEN:
            total = tl.dot(tl.load(x), tl.load(w), total, out_dtype=SUM)
        else:
            inside = k < inner - start
            a = tl.load(x, mask=inside[None, :], other=0.0)
            b = tl.load(w, mask=inside[:, None], other=0.0)
            total = tl.dot(a, b, total, out_dtype=SUM)
        x += BLOCK_K
        w += BLOCK_K
    in_m, in_n = m < rows, n < outputs
    if w_zero_ptr is not None:
        zero = tl.load(w_zero_ptr + n * w_scale_stride, mask=in_n, other=0).to(tl.int32) - 128
        total -= tl.load(sums_ptr + m, mask=in_m, other=0)[:, None] * zero[None, :]
    scale = tl.load(scale_ptr + m, mask=in_m, other=0.0)
    w_scale = tl.load(w_scale_ptr + n * w_scale_stride, mask=in_n, other=0.0).to(tl.float32)
    y = total.to(tl.float32) * scale[:, None] * w_scale[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    out = out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(out, y.to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.jit
def tile_of(program, rows, outputs, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """The tile of a program: GROUP_M tiles of rows share the weights that they read, before the next weights are read."""
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(outputs, BLOCK_N)
    group = program // (GROUP_M * tiles_n)
    first = group * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    inside = program % (GROUP_M * tiles_n)
    return first + inside % height, inside // height
