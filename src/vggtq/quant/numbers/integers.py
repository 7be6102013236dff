"""Packed integers: back to float, and inputs rounded to integers. What makes their codes: `vggtq.quant.methods`."""

from torch import Tensor

from vggtq.quant.numbers.input_codes import fake_quantize as round_inputs
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import unpack
from vggtq.quant.numbers.progressive import joined_scales
from vggtq.quant.numbers.rounding import block_of, dequantize

__all__ = ["decode", "round_inputs"]


def decode(packed: PackedWeight, block: slice) -> Tensor:
    """As `Arithmetic.decode`."""
    assert packed.scale is not None
    # Straight from the stored codes, whose offset acts as a zero point: every pass over a weight counts here.
    codes = unpack(packed.codes[block], packed.spec.bits, packed.columns)
    zero = packed.offset if packed.zero_point is None else block_of(packed.zero_point, block)
    scale = block_of(packed.scale, block)
    if packed.tensor_scale is not None:
        scale = joined_scales(packed.tensor_scale[block], scale)
    return dequantize(codes, scale, zero, packed.spec)
