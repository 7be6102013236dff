"""4-bit floats in blocks that share a scale: MXFP4 and NVFP4, x ≈ tensor_scale · block_scale · element.

Elements are e2m1 (1 sign, 2 exponent, 1 mantissa bit): ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}, code = sign · 8 + index. Blocks run along
the inputs of a row; the last one may be shorter.

MXFP4 (OCP Microscaling Formats Specification 1.0, sections 5.3.3 and 6.3): blocks of 32 and a power of two as scale, e8m0:
2^(floor(log2 max|x|) - 2), stored as its exponent + 127. So maxima of 6 to 8 scales saturate.
NVFP4 (NVIDIA Blackwell's format): blocks of 16, an e4m3 scale max|x| / 6, and one float32 scale per tensor, max|x| / (6 · 448),
which brings block scales into e4m3's range.

Rules: nearest element, halves to the even code; what lies beyond ±6 saturates; a block of zeros stays zeros. With `search`
(rounding.method=mse) a block takes the scale with the least squared error out of a few around that one.
"""

import torch
from torch import Tensor

from vggtq.quant.numbers.float8 import FLOAT8_MAX, to_float8
from vggtq.quant.numbers.input_range import TINY
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack, unpack
from vggtq.quant.numbers.rounding import grouped, row_blocks
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.formats import FORMATS
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.weights import Weights

MXFP4, NVFP4 = "mxfp4", "nvfp4"

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = 6.0
BIAS = 127
EXPONENTS = (0, -1, 1)  # that mse tries around MXFP4's own
# What a block's maximum becomes, tried for NVFP4.
LARGEST_ELEMENTS = (6.0, 4.0, 4.5, 5.0, 5.5, 6.5, 7.0, 7.5, 8.0)


def encode(rows: Tensor, spec: Weights, rounding: Rounding) -> dict[str, Tensor]:
    """As `Arithmetic.encode`; two codes to a byte."""
    whole, packed, scales = tensor_scale(rows, spec.format), [], []
    for block in row_blocks(rows):
        exact = rows[block].to(torch.float32)
        codes, scale = quantize_float4(exact, spec.format, whole, search=rounding.method == "mse")
        packed.append(pack(codes, 4))
        scales.append(scale)
    tensors = {"codes": torch.cat(packed), "scale": torch.cat(scales)}
    return tensors if whole is None else tensors | {"tensor_scale": whole}


def decode(packed: PackedWeight, block: slice) -> Tensor:
    """As `Arithmetic.decode`."""
    assert packed.scale is not None
    codes = unpack(packed.codes[block], 4, packed.columns)
    return dequantize_float4(codes, packed.scale[block], packed.tensor_scale, packed.spec.format)


def round_inputs(rows: Tensor, numbers: Activations) -> Tensor:
    """rows rounded in blocks and brought back, (T, C) float32; a value that is NaN or infinite becomes NaN."""
    exact = rows.to(torch.float32)
    if not exact.numel():
        return exact
    usable = exact.nan_to_num(0.0, 0.0, 0.0)
    whole = tensor_scale(usable, numbers.format)
    codes, scale = quantize_float4(usable, numbers.format, whole)
    return dequantize_float4(codes, scale, whole, numbers.format) + (exact - exact)


def to_e2m1(values: Tensor) -> Tensor:
    """Nearest codes 0 … 15 of values of any shape, uint8. The sign of zero is kept."""
    size = values.abs()
    # Steps of 0.5 up to 2, of 1 up to 4, of 2 up to 6; round() takes halves to even, which here is the even code.
    index = torch.where(
        size < 2,
        torch.round(size * 2),
        torch.where(size < 4, torch.round(size) + 2, torch.round(size / 2) + 4),
    )
    return index.clamp_(max=7).to(torch.uint8) + 8 * torch.signbit(values).to(torch.uint8)


def from_e2m1(codes: Tensor) -> Tensor:
    """Elements of codes 0 … 15, float32, same shape."""
    return e2m1_table(codes.device)[codes.to(torch.int32)]


def e2m1_table(device: torch.device) -> Tensor:
    """The 16 elements by code, (16,) float32."""
    half = torch.tensor(E2M1, device=device)
    return torch.cat([half, -half])


def tensor_scale(rows: Tensor, kind: str) -> Tensor | None:
    """The scale of a whole NVFP4 tensor, (1, 1) float32, positive; MXFP4 has none."""
    if kind == MXFP4:
        return None
    scale = (rows.abs().amax().to(torch.float32) / (LARGEST * FLOAT8_MAX)).view(1, 1)
    return torch.where(scale >= TINY, scale, torch.ones_like(scale))


def quantize_float4(
    rows: Tensor, kind: str, whole: Tensor | None, search: bool = False
) -> tuple[Tensor, Tensor]:
    """rows (R, C) float32 to codes (R, C) uint8 in 0 … 15 and block scales (R, blocks), uint8 (e8m0) or float8_e4m3fn.

    whole: as `tensor_scale` gives it.
    """
    blocks = _blocks(rows, kind)
    peak = blocks.abs().amax(-1)
    best, *others = _candidates(peak, kind, whole, search)
    least = _error(blocks, best, whole)
    for scale in others:
        error = _error(blocks, scale, whole)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale.view(torch.uint8), best.view(torch.uint8)).view(best.dtype)
    return _codes(blocks, block_scales(best, whole)).flatten(1)[:, : rows.shape[1]], best


def block_scales(stored: Tensor, whole: Tensor | None) -> Tensor:
    """Stored block scales (R, blocks) as float32 factors of the elements, the tensor's scale included."""
    if stored.dtype == torch.uint8:
        return torch.ldexp(torch.ones(stored.shape, device=stored.device), stored.to(torch.int32) - BIAS)
    scales = stored.to(torch.float32)
    return scales if whole is None else scales * whole


def dequantize_float4(codes: Tensor, scale: Tensor, whole: Tensor | None, kind: str) -> Tensor:
    """(R, C) float32 of codes (R, C) in 0 … 15."""
    blocks = _blocks(from_e2m1(codes), kind)
    return blocks.mul_(block_scales(scale, whole).unsqueeze(-1)).flatten(1)[:, : codes.shape[1]]


def _blocks(rows: Tensor, kind: str) -> Tensor:
    """(R, C) to (R, blocks, size); the last block is filled with zeros."""
    return grouped(rows, min(FORMATS[kind].block or rows.shape[1], rows.shape[1]))


def _candidates(peak: Tensor, kind: str, whole: Tensor | None, search: bool) -> list[Tensor]:
    """Stored scales for blocks with these maxima; the format's own comes first."""
    if kind == MXFP4:
        # frexp gives peak = m · 2^e with 0.5 ≤ m < 1, so that floor(log2 peak) is e - 1.
        exponent = torch.where(peak > 0, torch.frexp(peak).exponent - 3, 0)
        tried = EXPONENTS if search else EXPONENTS[:1]
        return [((exponent + step).clamp(-BIAS, BIAS) + BIAS).to(torch.uint8) for step in tried]
    assert whole is not None
    tops = LARGEST_ELEMENTS if search else LARGEST_ELEMENTS[:1]
    return [to_float8(peak / top / whole) for top in tops]


def _codes(blocks: Tensor, scale: Tensor) -> Tensor:
    """Codes of (R, blocks, size) for float32 scales; a scale that has rounded to zero makes zeros."""
    usable = torch.where(scale > 0, scale, torch.full_like(scale, float("inf")))
    return to_e2m1(blocks / usable.unsqueeze(-1))


def _error(blocks: Tensor, stored: Tensor, whole: Tensor | None) -> Tensor:
    """Squared error of every block, (R, blocks)."""
    scale = block_scales(stored, whole)
    rounded = from_e2m1(_codes(blocks, scale)).mul_(scale.unsqueeze(-1))
    return rounded.sub_(blocks).square_().sum(-1)
