"""Linear layers on the native kernels: weights of 2 to 8 bits, kept packed, times rounded or float inputs.

Rounded inputs, of at most 8 bits, meet integer weights. The product of codes is exact in 32 bits; the
contribution of inputs' and weights' zero points is added to it, before scales: once where a row of weights has
one scale or integer ones, else after every group, in float32. With float inputs a few weights at a time,
integers or floats of 4 or 16 bits, become float32 and are multiplied.
"""

import functools
import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vggtq.machine.native import Library, library
from vggtq.quant.kernels.cpu.layout import KernelLayoutLinear
from vggtq.quant.kernels.native.layout import (
    BLOCK,
    codes_from_panels,
    codes_to_panels,
    groups_from_panels,
    groups_to_panels,
    padded,
)
from vggtq.quant.kernels.native.operator import Rounding, ScaleType, traced_linear
from vggtq.quant.numbers.float4 import BIAS, MXFP4, NVFP4, e2m1_table
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack, unpack
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.formats import FORMATS
from vggtq.quant.scheme.weights import MOST_PROGRESSIVE, Weights

log = logging.getLogger(__name__)

MOST_INPUTS = 2**15  # products of 9-bit differences are summed in 32 bits
LEAST_GROUP = 16  # groups are multiples


SCALE_TYPES = {
    torch.float32: ScaleType.FLOAT32,
    torch.bfloat16: ScaleType.BFLOAT16,
    torch.float16: ScaleType.FLOAT16,
}
FLOATS = ("float16", "bfloat16", MXFP4, NVFP4)


class NativeLinear(KernelLayoutLinear):
    """Buffers are named as in interface.h and laid out by `vggtq.quant.kernels.native.layout`."""

    backend = "native"
    codes: Tensor
    scales: Tensor | None
    in_bfloat16 = False  # whether float inputs and the weight become bfloat16 in the product

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        self._fixed: tuple[float, ...] | None = None  # bits … smallest of the operator
        self._native = _required()
        super().__init__(packed, bias, activations)
        self._name()
        self._shapes = {name: tuple(t.shape) for name, t in packed.tensors.items()}
        grouped = packed.scale is not None and packed.scale.shape[1] > 1
        self._group = group_columns(self.in_features, self.spec) if grouped else 0
        self._scale_type = _scale_type(packed)
        for name, tensor in self._laid_out(packed).items():
            self.register_buffer(name, tensor, persistent=False)

    def multiply_in(self, dtype: str) -> None:
        """Sets the dtype of products with float inputs: bfloat16 where this CPU multiplies it, else float32."""
        possible = self.activations.mode == "none" and self._native.multiplies_bfloat16
        self.in_bfloat16 = dtype == "bfloat16" and possible and bfloat16_is_right()
        self._name()

    def _name(self) -> None:
        native = self._native
        of_floats = native.isa if self.in_bfloat16 else native.vectors
        isa = of_floats if self.activations.mode == "none" else native.integers
        variant = _variant(self.spec, self.product_bits, self.activation_bits)
        self.backend = f"native_{isa}_{variant}{'_bfloat16' if self.in_bfloat16 else ''}"

    @property
    def product_bits(self) -> int:
        """Of the weights in the product: 7 of 8 where products of more would saturate, else all of them."""
        if self.activations.mode == "none":
            return self.spec.bits
        return self._native.weight_bits(self.spec.bits, self.spec.symmetric)

    @property
    def activation_bits(self) -> int | None:
        return None if self.activations.mode == "none" else min(self.activations.bits, self._input_bits)

    @property
    def _input_bits(self) -> int:
        """Of inputs' codes, at most."""
        return self._native.input_bits(self.product_bits, self.spec.symmetric)

    @property
    def input_bits_beside_all(self) -> int:
        """Of inputs' codes, at most, where products keep all bits of the weights, as those of other engines do."""
        return self._native.input_bits(self.spec.bits, self.spec.symmetric)

    @property
    def notes(self) -> tuple[str, ...]:
        because = "this CPU's int8 products saturate with 8"
        notes: tuple[str, ...] = ()
        if self.product_bits < self.spec.bits:
            notes += (f"weights are rounded to {self.product_bits} bits in the product: {because}",)
        if self.activation_bits is not None and self.activation_bits < self.activations.bits:
            notes += (f"activations have {self.activation_bits} bits: {because}",)
        return notes

    def set_input_range(self, numbers: InputRange) -> None:
        super().set_input_range(numbers)
        known = numbers.with_bits(self._input_bits)
        self._fixed = (known.bits, 1.0, float(known.scale), int(known.zero_point), known.smallest)

    def stored_codes(self) -> Tensor:
        native, shape = self._native, (self.out_features, self.in_features)
        whole = padded(shape[0], native.panel), padded(shape[1], BLOCK)
        if self.spec.bits == 16:
            return groups_from_panels(self.codes, whole, native.panel)[: shape[0], : shape[1]].contiguous()
        codes = codes_from_panels(self.codes, self.spec.bits, native.lanes, native.panel, whole)
        return pack((codes ^ 128 if self.spec.bits == 8 else codes)[: shape[0], : shape[1]], self.spec.bits)

    def weight_tensors(self) -> dict[str, Tensor]:
        kept = {"scale": "scales", "zero_point": "zeros", "tensor_scale": "channel_scales"}
        return {"codes": self.stored_codes()} | {
            name: groups_from_panels(self.get_buffer(kept[name]), shape, self._native.panel)
            for name, shape in self._shapes.items()
            if name != "codes"
        }

    def multiply(self, rows: Tensor) -> Tensor:
        return traced_linear(rows, *self.arguments())

    def arguments(self) -> tuple[Any, ...]:
        """The operator's arguments besides the inputs."""
        names = ("scales", "channel_scales", "zeros", "sums", "weighted_sums", "table")
        weight = (self.out_features, self.spec.bits, self._group, self._scale_type.value)
        buffers = [self._buffers[name] for name in names]
        return self.codes, *buffers, self.bias, *weight, *self._input_numbers()

    def _input_numbers(self) -> tuple[float, ...]:
        """rounding … smallest of the operator."""
        numbers = self.activations
        if numbers.mode == "none":
            return (Rounding.IN_BFLOAT16 if self.in_bfloat16 else Rounding.NONE).value, 8, 1.0, 1.0, 0, 0
        if self._fixed is not None:
            return Rounding.FIXED.value, *self._fixed
        clip, symmetric = numbers.clip, numbers.symmetric
        if numbers.mode == "static":  # rounded per token while the range is being looked for
            clip, symmetric = 1.0, True
        shared = 2 if numbers.scale_granularity == "per_tensor" and numbers.mode == "dynamic" else 0
        return shared + (not symmetric), numbers.bits, clip, 1.0, 0, 0

    def _laid_out(self, packed: PackedWeight) -> dict[str, Tensor | None]:
        spread = functools.partial(groups_to_panels, rows=self.out_features, panel=self._native.panel)
        numbers = {"scales": packed.scale, "channel_scales": packed.tensor_scale, "zeros": packed.zero_point}
        numbers |= self._sums(packed)
        table = e2m1_table(packed.codes.device) if self.spec.format in (MXFP4, NVFP4) else None
        laid_out = {name: None if tensor is None else spread(tensor) for name, tensor in numbers.items()}
        return laid_out | {"codes": self._panels(packed), "table": table}

    def _panels(self, packed: PackedWeight) -> Tensor:
        """Codes in panels. Padding of the inputs has the value zero, whatever it is multiplied with."""
        lanes, panel, bits = self._native.lanes, self._native.panel, self.spec.bits
        if bits == 16:  # [panels][padded columns][panel], as groups of one input each
            return groups_to_panels(
                pad(packed.codes, (0, -self.in_features % BLOCK)), self.out_features, panel
            )
        codes, zero, middle = unpack(packed.codes, bits, self.in_features), packed.zero_point, 2 ** (bits - 1)
        # Where a row shares a scale, 8-bit codes are multiplied less 128, and zero points follow for real inputs alone.
        has_zeros = zero is not None and (bits < 8 or self._group > 0)
        empty = (
            zero[:, -1:].to(torch.uint8) if has_zeros and zero is not None else codes.new_full((1, 1), middle)
        )
        tail = empty.expand(self.out_features, -self.in_features % BLOCK)
        filled = torch.cat([codes, tail], dim=1) if tail.shape[1] else codes
        filled = pad(
            filled,
            (0, 0, 0, -self.out_features % panel),
            value=0 if zero is not None and bits < 8 else middle,
        )
        return codes_to_panels(filled ^ 128 if bits == 8 else filled, bits, lanes, panel)

    def _sums(self, packed: PackedWeight) -> dict[str, Tensor | None]:
        """sums and weighted_sums, (R, 1), where the inputs' numbers need them."""
        if self.activations.mode == "none":
            return {"sums": None, "weighted_sums": None}
        packed = in_product(packed, self.product_bits)
        zero, scale = packed.zero_point, packed.scale
        assert scale is not None
        if not self._group and self._scale_type != ScaleType.INTEGER:
            codes = unpack(packed.codes, self.spec.bits, self.in_features)
            middle = packed.offset if zero is None else 128 if self.spec.bits == 8 else zero.to(torch.int32)
            sums = codes.sum(1, keepdim=True, dtype=torch.int32) - self.in_features * middle
            return {"sums": sums, "weighted_sums": None}
        exact = packed.integer_codes()
        if self._scale_type == ScaleType.INTEGER:
            exact = exact * self._per_column(scale)
            return {"sums": exact.sum(1, keepdim=True, dtype=torch.int32), "weighted_sums": None}
        if self.activations.mode == "dynamic" and self.activations.symmetric:
            return {"sums": None, "weighted_sums": None}
        weight = (exact if zero is None else exact - self._per_column(zero)) * self._per_column(
            scale
        ).double()
        return {"sums": None, "weighted_sums": weight.sum(1, keepdim=True).to(torch.float32)}

    def _per_column(self, numbers: Tensor) -> Tensor:
        """(R or 1, groups) → (R or 1, C or 1), in float64 or int32."""
        wide = numbers.to(torch.float64 if numbers.is_floating_point() else torch.int32)
        if numbers.shape[1] == 1:
            return wide
        return wide.repeat_interleave(group_columns(self.in_features, self.spec), dim=1)[
            :, : self.in_features
        ]


def in_product(packed: PackedWeight, bits: int) -> PackedWeight:
    """The weight with its codes rounded to `bits` bits, 7 of 8, halves to the even code: the codes that are
    multiplied then.
    """
    if bits == packed.spec.bits:
        return packed
    assert (bits, packed.spec.bits) == (7, 8) and packed.scale is not None
    half = packed.codes >> 1
    codes = half + (packed.codes & half & 1) + packed.offset // 2
    return replace(packed, codes=codes, scale=2 * packed.scale)


def _variant(spec: Weights, bits: int, activation_bits: int | None) -> str:
    """The numbers that are multiplied, e.g. `w4a8`, `w4a8_progressive`, `mxfp4a16`."""
    weights = f"w{bits}" if spec.entry.integer else spec.format
    return f"{weights}a{activation_bits or 16}{'_progressive' if spec.progressive else ''}"


def _scale_type(packed: PackedWeight) -> ScaleType:
    """Of the scales; of the weights themselves where they have none."""
    numbers = packed.codes if packed.scale is None else packed.scale
    if numbers.dtype == torch.uint8:
        return ScaleType.INTEGER if packed.spec.progressive else ScaleType.E8M0
    return SCALE_TYPES.get(numbers.dtype, ScaleType.E4M3)


def fits(spec: Weights, inputs: Activations, shape: tuple[int, int]) -> bool:
    """Whether the kernels compute a weight of (out, in) on this CPU, and do so rightly."""
    size, rounded = group_columns(shape[1], spec), inputs.mode != "none"
    integers = spec.entry.integer and spec.bits <= 8 and (inputs.format == "int" or not rounded)
    known = integers or (spec.format in FLOATS and not rounded)
    grouped = size < shape[1]
    fitting = known and (not grouped or size % LEAST_GROUP == 0) and 0 < shape[1] <= MOST_INPUTS
    if not fitting or library() is None:
        return False
    unit = BLOCK if size % BLOCK == 0 else LEAST_GROUP
    return is_right(
        spec.format, spec.bits, spec.symmetric, spec.scale_dtype, unit if grouped else None, rounded
    )


def _required() -> Library:
    native = library()
    if native is None:
        raise RuntimeError(
            "there is no library of native kernels here; quantize_ chooses another backend then"
        )
    return native


@functools.cache
def is_right(
    kind: str, bits: int, symmetric: bool, scale_dtype: str, group: int | None, rounded: bool
) -> bool:
    """Whether the kernel for such weights gives the same results as exact sums on a small product with the
    codes at both ends.

    A wrong one is not used from then on, and a line in the log says so.
    """
    whole_row = 128  # more than the columns
    scaled, block = FORMATS[kind].scaled, FORMATS[kind].block or group or whole_row
    spec = Weights(
        kind, bits, symmetric, "group" if scaled else "none", block if scaled else None, scale_dtype
    )
    with torch.device("cpu"):  # whatever the caller's default is
        packed, layer, x = small_product(spec, rounded)
        weight = in_product(packed, layer.product_bits).dequantize(torch.float64)
        right = torch.equal(layer(x).double(), x.double() @ weight.t())
    if not right:
        log.warning("%s is not used: it gave a wrong product here", layer.backend)
    return right


@functools.cache
def bfloat16_is_right() -> bool:
    """The same for products in bfloat16, with numbers that it holds exactly."""
    with torch.device("cpu"):
        packed, layer, x = small_product(Weights(bits=8), rounded=False)
        layer.in_bfloat16 = True
        right = torch.equal(layer(x).double(), x.double() @ packed.dequantize(torch.float64).t())
    if not right:
        log.warning("products in bfloat16 are not used: one gave a wrong result here")
    return right


def small_product(
    spec: Weights, rounded: bool, columns: int = 125
) -> tuple[PackedWeight, NativeLinear, Tensor]:
    """A weight of 35 rows, its layer, and 19 tokens: whole numbers, whose scales are powers of two, so that sums are exact."""
    rows, bits = 35, spec.bits
    groups = -(-columns // group_columns(columns, spec))
    generator = torch.Generator().manual_seed(bits)

    def draw(low: int, high: int, size: int = groups) -> Tensor:
        return torch.randint(low, high + 1, (rows, size), generator=generator, dtype=torch.uint8)

    codes, channels, zero = draw(0, 2 ** min(bits, 8) - 1, columns), None, None
    codes[0], codes[1] = 2 ** min(bits, 8) - 1, 1 if spec.symmetric else 0
    scale: Tensor | None = 2.0 ** (draw(0, 4).float() - 2)
    if spec.progressive:
        scale, channels = draw(1, MOST_PROGRESSIVE), 2.0 ** (draw(0, 4, 1).float() - 2)
    elif spec.format == MXFP4:
        scale = draw(BIAS - 2, BIAS + 2)
    elif spec.format == NVFP4 and scale is not None:
        scale, channels = scale.to(torch.float8_e4m3fn), torch.full((1, 1), 0.25)
    elif not spec.entry.scaled:
        scale, codes = None, codes.to(getattr(torch, spec.format))
    if not spec.symmetric:
        zero = draw(0, 2**bits - 1)
    packed = PackedWeight(
        codes if scale is None else pack(codes, bits),
        scale,
        zero,
        spec,
        columns,
        0.0,
        0.0,
        tensor_scale=channels,
    )
    layer = NativeLinear(packed, None, Activations("dynamic" if rounded else "none"))
    largest = 2 ** ((layer.activation_bits or 8) - 1) - 1
    x = torch.randint(-largest, largest + 1, (19, columns), generator=generator).to(torch.float32)
    x[:, 0], x[0] = largest, largest
    return packed, layer, x
