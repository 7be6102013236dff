"""From a float weight to a packed one: rounds as a scheme says, and stores codes, scales and zero points."""

from dataclasses import replace

import torch
from torch import Tensor

from vggtq.errors import QuantizationError
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack
from vggtq.quant.numbers.progressive import joined_scales, split_scales
from vggtq.quant.numbers.rounding import (
    block_of,
    dequantize,
    quantization_parameters,
    round_to_codes,
    row_blocks,
)
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.registry import resolved
from vggtq.quant.scheme.weights import Weights

Parameters = tuple[Tensor, Tensor | None]


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
    rounding = rounding or Rounding()
    if not spec.entry.integer:
        return _encoded(rows, spec, rounding)
    if parameters is not None:
        return _pack_integers(rows, spec, Rounding(), None, parameters)
    scale, zero = _parameters(rows, spec, rounding, gram)
    if spec.progressive:
        channel, group = split_scales(scale)
        packed = _pack_integers(rows, spec, rounding, gram, (joined_scales(channel, group), zero))
        return replace(packed, scale=group, tensor_scale=channel)
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


def _encoded(rows: Tensor, spec: Weights, rounding: Rounding) -> PackedWeight:
    """A weight in a format that makes its codes itself."""
    arithmetic = spec.entry.computes
    tensors = arithmetic.encode(rows, spec, rounding)
    packed = PackedWeight.of(tensors, spec, rows.shape[1])
    signal, noise = 0.0, 0.0
    for block in row_blocks(rows):
        more_signal, more_noise = _power(rows[block].to(torch.float32), arithmetic.decode(packed, block))
        signal, noise = signal + more_signal, noise + more_noise
    return replace(packed, signal=signal, noise=noise)


def _pack_integers(
    rows: Tensor, spec: Weights, rounding: Rounding, gram: Tensor | None, parameters: Parameters
) -> PackedWeight:
    scale, zero = parameters
    method = rounding.entry
    # Without the data that it needs a method has nothing to improve on the nearest codes with.
    find = None if method.codes is None or (method.needs_data and gram is None) else resolved(method.codes)
    offset = 2 ** (spec.bits - 1) if spec.symmetric else 0
    packed, signal, noise = [], 0.0, 0.0
    # A method may walk along the columns, which costs the same for one row as for many.
    for block in row_blocks(rows) if find is None else [slice(0, len(rows))]:
        exact = rows[block].to(torch.float32)
        block_scale = block_of(scale, block).to(torch.float32)
        block_zero = None if zero is None else block_of(zero, block)
        if find is None:
            codes = round_to_codes(exact, block_scale, block_zero, spec)
        else:
            codes = find(exact, block_scale, block_zero, spec, rounding, gram)
        packed.append(pack(codes + offset, spec.bits))
        more_signal, more_noise = _power(exact, dequantize(codes, block_scale, block_zero, spec))
        signal, noise = signal + more_signal, noise + more_noise
    if zero is not None and spec.bits <= 8:
        zero = zero.to(torch.uint8)
    return PackedWeight(torch.cat(packed), scale, zero, spec, rows.shape[1], signal, noise)


def _parameters(rows: Tensor, spec: Weights, rounding: Rounding, gram: Tensor | None) -> Parameters:
    """Scales and zero points, block by block where rows have their own."""
    method, known = rounding.entry, {"gram": gram, "rounding": rounding}
    find, options = resolved(method.parameters), {key: known[key] for key in method.takes}
    if spec.granularity == "per_tensor":
        # The extremes alone determine a per-tensor min-max scale.
        minmax = find is quantization_parameters
        values = torch.stack(torch.aminmax(rows)).view(1, 2) if minmax else rows
        scale, zero = find(values.to(torch.float32), spec, **options)
        return scale, zero
    parts = [find(rows[b].to(torch.float32), spec, **options) for b in row_blocks(rows)]
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
