"""Compiles Triton's kernels for Hopper without a GPU; run by test_triton_compile.py in a process of its own."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vggtq.quant.kernels.cuda import triton_matmul, triton_rows, triton_weights
from vggtq.quant.kernels.cuda.triton_tune import FEW_ROWS_TILES, MATMUL_TILES

SHARED_BYTES = 227 * 1024  # of one SM of Hopper
UNEVEN = ("rows", "eps", "qmax")  # arguments that need not be multiples of 16

ROWS = {"x_ptr": "*bf16", "codes_ptr": "*i8", "scale_ptr": "*fp32", "sums_ptr": "*i32"}
ROWS |= {"x_stride": "i32", "columns": "i32", "eps": "fp32", "qmax": "fp32"}
AFFINE = {"codes_ptr": "*u8", "gain_ptr": "*fp32", "shift_ptr": "*fp32"}
SIZES = {"rows": "i32", "outputs": "i32", "inner": "i32"}
PRODUCT = {"x_ptr": "*i8", "w_ptr": "*i8", "out_ptr": "*bf16", "bias_ptr": "*bf16"}
PRODUCT |= {"scale_ptr": "*fp32", "w_scale_ptr": "*fp32"} | SIZES
FLOAT8 = {"x_ptr": "*fp8e4nv", "w_ptr": "*fp8e4nv"}
PACKED = {"codes_ptr": "*u8", "scale_ptr": "*fp16", "width": "i32", "scale_stride": "i32"}
WEIGHTS = PACKED | {"weight_ptr": "*bf16", "outputs": "i32", "columns": "i32"}
FEW = PACKED | {"x_ptr": "*bf16", "bias_ptr": "*bf16", "out_ptr": "*bf16"} | SIZES


def ptx(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int = 4, stages: int = 3
) -> str:
    """PTX for compute capability 9.0; pointers that `types` leaves out are None."""
    while not isinstance(kernel, triton.JITFunction):
        kernel = kernel.fn
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    constants = {name: None for name in names if name not in types} | constants
    wide = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n in types and n not in UNEVEN}
    source = ASTSource(kernel, signature, constants, wide)
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(compiled.asm["cubin"]) > 0
    assert compiled.metadata.shared <= SHARED_BYTES
    return compiled.asm["ptx"]


def product(types: dict[str, str], tile: tuple[int, ...], integer: bool, even: bool) -> str:
    """The product of codes."""
    (m, n, k), (warps, stages) = tile[:3], tile[3:]
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8, "BUCKET": 4096, "w_scale_stride": 1}
    flags = {"INTEGER": integer, "EVEN": even}
    return ptx(triton_matmul._scaled_matmul, PRODUCT | types, blocks | flags, warps, stages)


def main() -> None:
    """One instance of every kernel and of every branch of it."""
    for prologue in ("none", "gelu"):
        ptx(triton_rows._quantize_rows, ROWS, {"PROLOGUE": prologue, "FLOAT8": False, "WIDTH": 4096}, 8)
    norm = {"PROLOGUE": "layer_norm", "FLOAT8": True, "WIDTH": 1024}
    ptx(triton_rows._quantize_rows, ROWS | AFFINE, norm)

    tile = MATMUL_TILES[2]
    assert ".s32.s8.s8" in product({}, tile, integer=True, even=True), "no int8 tensor core instructions"
    assert ".f32.e4m3.e4m3" in product(FLOAT8, tile, integer=False, even=True), "no FP8 ones"
    product({"sums_ptr": "*i32", "w_zero_ptr": "*u8"}, MATMUL_TILES[1], integer=True, even=False)

    for bits, group in ((4, 64), (3, 96)):
        constants = {"BITS": bits, "GROUP": group, "BLOCK_N": 32, "BLOCK_K": 128}
        ptx(triton_weights._dequantize, WEIGHTS, constants)
    m, n, k, warps, stages = FEW_ROWS_TILES[0]
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8, "BUCKET": 16}
    code = ptx(triton_weights._few_rows_linear, FEW, blocks | {"BITS": 4, "GROUP": 64}, warps, stages)
    assert ".bf16.bf16" in code, "no bfloat16 tensor core instructions"
    zeros = FEW | {"zero_ptr": "*u8"}
    ptx(triton_weights._few_rows_linear, zeros, blocks | {"BITS": 8, "GROUP": 0}, warps, stages)


if __name__ == "__main__":
    main()
