"""A weight as it is stored: packed codes, scales, zero points. Nothing else of it is kept."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from vggtq.errors import QuantizationError
from vggtq.quant.clipping import clipped_parameters, half_quadratic_parameters
from vggtq.quant.float4 import dequantize_float4, quantize_float4, tensor_scale
from vggtq.quant.float8 import to_float8, weight_scales
from vggtq.quant.gptq import error_spread, gptq_codes
from vggtq.quant.input_range import InputRange
from vggtq.quant.low_rank import LowRank
from vggtq.quant.numbers import FLOAT4
from vggtq.quant.packing import pack, unpack
from vggtq.quant.rounding import block_of, dequantize, quantization_parameters, round_to_codes, row_blocks
from vggtq.quant.scheme import FLOAT8, Rounding, Weights
from vggtq.quant.transform import InputTransform

_FLOAT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PackedWeight:
    """R rows of C weights.

    codes: (R, ceil(C·bits/8)) uint8, or (R, C) float16/bfloat16/float8_e4m3fn for float formats.
    scale: (1, 1), (R, 1) or (R, groups), zero_point likewise (uint8, int32 for 16 bits) or None. Symmetric codes are stored
    with +2^(bits-1). 4-bit floats: codes packed like integers, scale (R, blocks) uint8 for e8m0 or float8_e4m3fn, and NVFP4's
    tensor_scale (1, 1) float32.
    transform: what the layer's inputs go through first, because the weight was rounded in another basis. input_range: what they
    are rounded with then, where activations are static and that is known already.
    low_rank: what is added to the product, in that basis too; none of the tensors here.
    exact: the weight that was rounded, (R, C), where it is to be trained on; kernels do not take it.
    signal, noise: Σw² and Σ(w - ŵ)², float64 sums over the whole weight. identity: the same for layers that share a weight.
    """

    codes: Tensor
    scale: Tensor | None
    zero_point: Tensor | None
    spec: Weights
    columns: int
    signal: float
    noise: float
    notes: tuple[str, ...] = ()
    identity: int = field(default_factory=itertools.count().__next__)
    transform: InputTransform = field(default_factory=InputTransform)
    low_rank: LowRank | None = None
    input_range: InputRange | None = None
    tensor_scale: Tensor | None = None
    exact: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file has to keep, by name."""
        named = {"codes": self.codes, "scale": self.scale, "zero_point": self.zero_point}
        named["tensor_scale"] = self.tensor_scale
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def stored_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def sqnr_db(self) -> float:
        """10 log10(Σw² / Σ(w - ŵ)²); infinite where nothing was lost."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else math.nan

    def integer_codes(self, block: slice = slice(None)) -> Tensor:
        """Rows of codes in qmin … qmax, (r, C) int32."""
        return unpack(self.codes[block], self.spec.bits, self.columns).to(torch.int32) - self._offset

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight in `dtype`, (R, C)."""
        if self.scale is None:
            return self.codes.to(dtype)
        if self.spec.format == FLOAT8:
            return self.codes.to(torch.float32).mul_(self.scale).to(dtype)
        rows = torch.empty(self.codes.shape[0], self.columns, dtype=dtype, device=self.codes.device)
        for block in row_blocks(rows):
            if self.spec.format in FLOAT4:
                codes = unpack(self.codes[block], 4, self.columns)
                rows[block] = dequantize_float4(codes, self.scale[block], self.tensor_scale, self.spec.format)
                continue
            # Straight from the stored codes, whose offset acts as a zero point: every pass over a weight counts here.
            codes = unpack(self.codes[block], self.spec.bits, self.columns)
            zero = self._offset if self.zero_point is None else block_of(self.zero_point, block)
            rows[block] = dequantize(codes, block_of(self.scale, block), zero, self.spec)
        return rows

    @property
    def _offset(self) -> int:
        """What symmetric codes are stored with, to be unsigned."""
        return 2 ** (self.spec.bits - 1) if self.spec.symmetric else 0


Parameters = tuple[Tensor, Tensor | None]
"""Scale and zero point, as `quantization_parameters` returns them."""


def pack_weight(
    rows: Tensor,
    spec: Weights,
    rounding: Rounding | None = None,
    gram: Tensor | None = None,
    parameters: Parameters | None = None,
) -> PackedWeight:
    """Rounds and packs a weight. rows: (R, C), any float dtype, not modified. gram: (C, C) of its inputs, for GPTQ and MSE.

    parameters: scales and zero points of integers, stored as they are; without them `rounding` finds some. Raises
    QuantizationError for NaN or infinite weights and for values that a float format cannot hold.
    """
    check_finite(rows)
    if spec.format == FLOAT8:
        return _pack_float8(rows, spec)
    if spec.format in FLOAT4:
        return _pack_float4(rows, spec, rounding or Rounding())
    if spec.is_float:
        return _pack_float(rows, spec)
    if parameters is not None:
        return _pack_integers(rows, spec, Rounding(), None, parameters)
    rounding = rounding or Rounding()
    scale, zero = _parameters(rows, spec, rounding, gram)
    scale, notes = _storable(scale, spec)
    return replace(_pack_integers(rows, spec, rounding, gram, (scale, zero)), notes=notes)


def check_finite(rows: Tensor) -> None:
    """Raises QuantizationError if a weight is NaN or infinite, for no rounding of it would be right."""
    low, high = torch.aminmax(rows)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(rows)).sum())
        raise QuantizationError(
            f"{bad} of {rows.numel()} weights are NaN or infinite; the checkpoint is damaged, "
            f"or keep the layer in float with scheme.layers.exclude"
        )


def _pack_float(rows: Tensor, spec: Weights) -> PackedWeight:
    dtype = _FLOAT_DTYPES[spec.format]
    codes = rows.to(dtype)
    if not torch.isfinite(codes).all():
        raise QuantizationError(
            f"the largest weight, {float(rows.abs().amax()):.3g}, is beyond {spec.format}'s {torch.finfo(dtype).max:.3g}; "
            f"use scheme=bf16, or keep the layer in float with scheme.layers.exclude"
        )
    signal, noise = _power(rows.to(torch.float32), codes.to(torch.float32))
    return PackedWeight(codes, None, None, spec, rows.shape[1], signal, noise)


def _pack_float8(rows: Tensor, spec: Weights) -> PackedWeight:
    scale = weight_scales(rows, spec.granularity == "per_tensor")
    codes, signal, noise = [], 0.0, 0.0
    for block in row_blocks(rows):
        exact, block_scale = rows[block].to(torch.float32), block_of(scale, block)
        codes.append(to_float8(exact / block_scale))
        more_signal, more_noise = _power(exact, codes[-1].to(torch.float32) * block_scale)
        signal, noise = signal + more_signal, noise + more_noise
    return PackedWeight(torch.cat(codes), scale, None, spec, rows.shape[1], signal, noise)


def _pack_float4(rows: Tensor, spec: Weights, rounding: Rounding) -> PackedWeight:
    whole = tensor_scale(rows, spec.format)
    packed, scales, signal, noise = [], [], 0.0, 0.0
    for block in row_blocks(rows):
        exact = rows[block].to(torch.float32)
        codes, scale = quantize_float4(exact, spec.format, whole, search=rounding.method == "mse")
        packed.append(pack(codes, 4))
        scales.append(scale)
        more_signal, more_noise = _power(exact, dequantize_float4(codes, scale, whole, spec.format))
        signal, noise = signal + more_signal, noise + more_noise
    numbers = (None, spec, rows.shape[1], signal, noise)
    return PackedWeight(torch.cat(packed), torch.cat(scales), *numbers, tensor_scale=whole)


def _pack_integers(
    rows: Tensor, spec: Weights, rounding: Rounding, gram: Tensor | None, parameters: Parameters
) -> PackedWeight:
    scale, zero = parameters
    spread = None
    if rounding.method == "gptq" and gram is not None:
        spread = error_spread(gram, rounding.damping, rounding.act_order)
    offset = 2 ** (spec.bits - 1) if spec.symmetric else 0
    packed, signal, noise = [], 0.0, 0.0
    # GPTQ walks along the columns, which costs the same for one row as for many.
    for block in row_blocks(rows) if spread is None else [slice(0, len(rows))]:
        exact = rows[block].to(torch.float32)
        block_scale = block_of(scale, block).to(torch.float32)
        block_zero = None if zero is None else block_of(zero, block)
        if spread is None:
            codes = round_to_codes(exact, block_scale, block_zero, spec)
        else:
            codes = gptq_codes(exact, block_scale, block_zero, spec, spread)
        packed.append(pack(codes + offset, spec.bits))
        more_signal, more_noise = _power(exact, dequantize(codes, block_scale, block_zero, spec))
        signal, noise = signal + more_signal, noise + more_noise
    if zero is not None and spec.bits <= 8:
        zero = zero.to(torch.uint8)
    return PackedWeight(torch.cat(packed), scale, zero, spec, rows.shape[1], signal, noise)


def _parameters(rows: Tensor, spec: Weights, rounding: Rounding, gram: Tensor | None) -> Parameters:
    """Scales and zero points, block by block where rows have their own."""
    clips = rounding.method == "mse" or (rounding.method == "gptq" and rounding.clip)
    find: Callable[[Tensor, Weights], tuple[Tensor, Tensor | None]] = quantization_parameters
    if rounding.method == "hqq":
        find = half_quadratic_parameters
    elif clips:  # gptq moves errors to other groups, so what a group costs by itself says nothing
        find = partial(clipped_parameters, gram=gram if rounding.method == "mse" else None)
    if spec.granularity == "per_tensor":
        # The extremes alone determine a per-tensor min-max scale.
        minmax = find is quantization_parameters
        values = torch.stack(torch.aminmax(rows)).view(1, 2) if minmax else rows
        return find(values.to(torch.float32), spec)
    parts = [find(rows[b].to(torch.float32), spec) for b in row_blocks(rows)]
    scale = torch.cat([s for s, _ in parts])
    return scale, None if spec.symmetric else torch.cat([z for _, z in parts if z is not None])


def _storable(scale: Tensor, spec: Weights) -> tuple[Tensor, tuple[str, ...]]:
    """The scales in the dtype asked for, or in float32 with a note where float16 would lose more than its last bit."""
    if spec.scale_dtype == "float32":
        return scale, ()
    half = scale.to(torch.float16)
    smallest = torch.finfo(torch.float16).smallest_normal
    if torch.isfinite(half).all() and bool((half >= smallest).all()):
        return half, ()
    span = f"{float(scale.amin()):.3g} … {float(scale.amax()):.3g}"
    return scale, (f"scales are stored in float32: {span} is beyond the normal range of float16",)


def _power(exact: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Σw² and Σ(w - ŵ)² of one block. `rounded` is overwritten."""
    return _squares(exact), _squares(rounded.sub_(exact))


def _squares(values: Tensor) -> float:
    flat = values.flatten()
    total = float(flat.square().sum())  # a dot product depends on where in memory its inputs start
    # Squares of very large or very small float32 numbers leave its range; float64 takes three times as long.
    return total if 1e-30 < total < 1e30 or not flat.any() else float(flat.double().square().sum())
