"""Quantized layers as an exported graph has them: stored codes, scales, and operators that every engine knows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.engines.operators import fixed_range, integer_matmul, weight
from vggtq.errors import ExportError
from vggtq.quant.kernels.cpu.onednn_conv import OneDnnInt8Conv
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import QuantConv, TransformedLinear, conv_transpose_weight
from vggtq.quant.numbers.basis import InputTransform
from vggtq.quant.numbers.hadamard import NARROW, sylvester
from vggtq.quant.numbers.input_range import TINY, InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack, unpack
from vggtq.quant.numbers.progressive import joined_scales
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.activations import Activations


@dataclass(frozen=True)
class Target:
    """The treatment that an engine gives to a layer whose inputs are rounded.

    rounds_inputs: the engine rounds the inputs of every token itself at run time, and the graph leaves this to
    it; else the graph rounds inputs and multiplies integers. exact_inputs: no inputs are rounded, to show what
    rounding them costs.
    """

    name: str
    rounds_inputs: bool = False
    exact_inputs: bool = False


ONNX = Target("ONNX")
OPENVINO = Target("OpenVINO", rounds_inputs=True)
EXACT_INPUTS = Target("torch", exact_inputs=True)


class StoredWeight(nn.Module):
    """The codes of one weight, in the types that files of engines have: 4, 8 or 16 bits, the next that is wide enough."""

    codes: Tensor
    scale: Tensor | None
    zero: Tensor | None

    def __init__(self, packed: PackedWeight, by_row: bool) -> None:
        super().__init__()
        spec, (outputs, self.columns) = packed.spec, (packed.codes.shape[0], packed.columns)
        self.by_row, self.group, self.bits, self.signed = by_row, 0, 32, spec.symmetric
        if not spec.entry.integer:
            self._keep_float(packed)
            return
        if spec.bits == 16 and not spec.symmetric:
            raise ExportError(
                "asymmetric weights of 16 bits have no type in exported files; use scheme.weights.symmetric=true"
            )
        assert packed.scale is not None
        scale = packed.scale.to(torch.float32)
        if packed.tensor_scale is not None:
            scale = joined_scales(packed.tensor_scale, packed.scale)
        codes = unpack(packed.codes, spec.bits, self.columns).to(torch.int32) - packed.offset
        zero = packed.zero_point
        if scale.shape[1] > 1:
            self.group = group_columns(self.columns, spec)
            codes = F.pad(codes, (0, -self.columns % self.group))
        self.padding = codes.shape[1] - self.columns
        self.bits = 4 if spec.bits <= 4 and codes.shape[1] % 2 == 0 and outputs % 2 == 0 else 8
        self.bits = 16 if spec.bits > 8 else self.bits
        self.shape = list(codes.shape) if by_row else list(codes.t().shape)
        self.per_tensor = scale.numel() == 1 and outputs > 1
        self.register_buffer("codes", self._kept(codes if by_row else codes.t()))
        self.register_buffer("scale", self._numbers(scale))
        self.register_buffer(
            "zero", None if zero is None else self._kept(self._numbers(zero.to(torch.int32)))
        )

    def _keep_float(self, packed: PackedWeight) -> None:
        name = packed.spec.format
        if name not in ("float16", "bfloat16"):
            raise ExportError(
                f"{name} weights have no operator in this engine; use an integer scheme, e.g. scheme=int4_group, or "
                f"format=torch_export"
            )
        self.padding = 0
        self.register_buffer("codes", packed.codes if self.by_row else packed.codes.t().contiguous())
        self.register_buffer("scale", None)
        self.register_buffer("zero", None)

    def _numbers(self, numbers: Tensor) -> Tensor:
        """Scales or zero points, (1, 1), (outputs, 1) or (outputs, groups), in the shape that `operators.weight` takes."""
        if self.group:
            return (numbers if self.by_row else numbers.t()).contiguous()
        return numbers.reshape(()) if self.per_tensor else numbers.flatten()

    def _kept(self, codes: Tensor) -> Tensor:
        if self.bits == 4:
            flat = codes.reshape(1, -1)
            return pack(flat & 15, 4)[0]
        if self.bits == 16:
            return codes.to(torch.int16).contiguous()
        return codes.to(torch.int8 if self.signed else torch.uint8).contiguous()

    def forward(self) -> Tensor:
        """The weight, float32, padded to whole groups."""
        if self.scale is None:
            return self.codes.to(torch.float32)
        numbers = (self.shape, self.bits, self.signed, self.group, self.by_row)
        out: Tensor = weight(self.codes, self.scale, self.zero, *numbers)
        return out


class ExportedLinear(nn.Module):
    """x ŵᵀ + b with inputs rounded as the layer rounds them."""

    sums: Tensor | None

    def __init__(self, layer: QuantLinear, target: Target) -> None:
        super().__init__()
        self.bias, self.inputs, self.target = layer.bias, layer.activations, target
        packed = layer.packed()
        self.rounding = rounding_of(layer, target)
        self.left_to_engine = self.rounding is None and self.inputs.mode != "none" and not target.exact_inputs
        rows = packed.scale is not None and packed.scale.shape[1] == 1 and packed.spec.bits <= 8
        dynamic = isinstance(self.rounding, DynamicRounding)
        self.integers = dynamic and rows and not target.rounds_inputs and packed.spec.entry.integer
        if self.integers and packed.spec.bits <= 4:
            packed = widened(packed)
        self.stored = StoredWeight(packed, by_row=False)
        self.register_buffer("sums", self._sums() if self.integers and not self.inputs.symmetric else None)

    def _sums(self) -> Tensor:
        """Σ (code - zero) of every output, float32, which the zero points of inputs are multiplied by."""
        codes = self.stored.codes.to(torch.int64)
        if self.stored.zero is not None:
            codes = codes - self.stored.zero.to(torch.int64)
        return codes.sum(0).to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        out = self._integer_product(x) if self.integers else self._float_product(x)
        return out if self.bias is None else out + self.bias

    def _integer_product(self, x: Tensor) -> Tensor:
        assert isinstance(self.rounding, DynamicRounding) and self.stored.scale is not None
        scale, zero = self.rounding.numbers(x)
        sums = integer_matmul(
            self.rounding.codes(x, scale, zero), 128, self.stored.codes, self._weight_zero()
        )
        if zero is not None and self.sums is not None:
            sums = sums - (zero - 128) * self.sums
        if self.rounding.axes is None:
            return sums * (scale.reshape(()) * self.stored.scale)  # one product, as ONNX Runtime fuses it
        # Two products: ONNX Runtime 1.32 fuses the one above, too, where tokens have scales of their own, and gets it wrong.
        return sums * self.stored.scale * scale

    def _weight_zero(self) -> Tensor | None:
        zero = self.stored.zero
        return None if zero is None else zero.expand(self.stored.codes.shape[1])

    def _float_product(self, x: Tensor) -> Tensor:
        x = x if self.rounding is None else self.rounding(x)
        x = F.pad(x, (0, self.stored.padding)) if self.stored.padding else x
        out: Tensor = x @ self.stored()
        return out


class ExportedConv(nn.Module):
    """A convolution with a dequantized weight; rounded inputs are brought back to float before it."""

    def __init__(self, conv: QuantConv, target: Target) -> None:
        super().__init__()
        self.stored = StoredWeight(conv.rows.packed(), by_row=True)
        self.bias, self.transposed = conv.rows.bias, conv.transposed
        self.weight_shape, self.groups = conv.weight_shape, conv.groups
        self.stride, self.dilation, self.padding = conv.stride, conv.dilation, conv.padding
        self.output_padding = conv.output_padding
        rounded = isinstance(conv.rows, OneDnnInt8Conv)
        self.rounding = rounding_of(conv.rows, target, images=True) if rounded else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.rounding is None else self.rounding(x)
        rows = self.stored()[:, : self.stored.columns]
        if self.transposed:
            weight = conv_transpose_weight(rows, self.weight_shape, self.groups)
            return F.conv_transpose2d(
                x,
                weight,
                self.bias,
                self.stride,
                self.padding,
                self.output_padding,
                self.groups,
                self.dilation,
            )
        weight = rows.reshape(self.weight_shape)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ExportedTransform(nn.Module):
    """A layer behind scales and rotations of its inputs, with its low-rank branch."""

    input_scale: Tensor | None
    down: Tensor | None
    up: Tensor | None

    def __init__(self, layer: TransformedLinear, target: Target) -> None:
        super().__init__()
        self.linear = ExportedLinear(layer.linear, target)
        transform = layer.transform
        self.rotation_first = transform.rotation_first
        self.register_buffer("input_scale", transform.scale)
        self.turn = Turn(transform) if transform.rotation > transform.merged else nn.Identity()
        branch = layer.low_rank
        self.register_buffer("down", None if branch is None else branch.down.t().contiguous())
        self.register_buffer("up", None if branch is None else branch.up.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = self.turn(x) if self.rotation_first else x
        x = x if self.input_scale is None else x / self.input_scale
        x = x if self.rotation_first else self.turn(x)
        out: Tensor = self.linear(x)
        if self.down is None or self.up is None:
            return out
        return out + (x @ self.down.to(x.dtype)) @ self.up.to(x.dtype)


class Turn(nn.Module):
    """`vggtq.quant.numbers.hadamard.rotate` as one or two products with constants."""

    left: Tensor | None
    right: Tensor

    def __init__(self, transform: InputTransform) -> None:
        super().__init__()
        self.stride = max(transform.merged, 1)
        width = transform.rotation // self.stride
        halves = width > NARROW and self.stride == 1
        left = 2 ** ((width.bit_length() - 1) // 2) if halves else 1
        self.register_buffer("left", _orthonormal(left) if left > 1 else None)
        self.register_buffer("right", _orthonormal(width // left))

    def forward(self, x: Tensor) -> Tensor:
        columns, width = x.shape[-1], self.right.shape[0]
        if self.stride > 1:
            blocks = self.right @ x.unflatten(-1, (columns // (width * self.stride), width, self.stride))
            return blocks.flatten(-3)
        if self.left is None:
            return (x.unflatten(-1, (columns // width, width)) @ self.right).flatten(-2)
        height = self.left.shape[0]
        blocks = x.unflatten(-1, (columns // (height * width), height, width))
        return (self.left @ (blocks @ self.right)).flatten(-3)


def _orthonormal(width: int) -> Tensor:
    return sylvester(width, torch.float32, torch.device("cpu")) * width**-0.5


class DynamicRounding(nn.Module):
    """Inputs rounded by scales of a token, of all tokens, or of an image, found at run time (`numbers.input_codes`)."""

    def __init__(self, inputs: Activations, bits: int, images: bool) -> None:
        super().__init__()
        self.bits, self.clip = bits, inputs.clip
        self.symmetric = inputs.symmetric and not images
        shared = inputs.scale_granularity == "per_tensor"
        self.axes: tuple[int, ...] | None = (-3, -2, -1) if images else None if shared else (-1,)

    def numbers(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales, and zero points of codes from 0 to 2^bits-1; None for symmetric codes."""
        axes = tuple(range(-x.ndim, 0)) if self.axes is None else self.axes
        if self.symmetric:
            peak = x.abs().amax(axes, keepdim=True)
            return (peak / (2 ** (self.bits - 1) - 1)).clamp_min(TINY) * self.clip, None
        low, high = x.amin(axes, keepdim=True).clamp_max(0), x.amax(axes, keepdim=True).clamp_min(0)
        scale = ((high - low) / (2**self.bits - 2)).clamp_min(TINY)
        return scale, torch.round(-low / scale)

    def codes(self, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """uint8; symmetric codes are stored with +128."""
        codes = self._whole(x, scale, zero)
        return (codes + 128 if zero is None else codes).to(torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """Rounded and brought back."""
        scale, zero = self.numbers(x)
        codes = self._whole(x, scale, zero)
        return (codes if zero is None else codes - zero) * scale

    def _whole(self, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        if zero is not None:
            return torch.round(x / scale + zero)
        codes = torch.round(x / scale)
        largest = 2 ** (self.bits - 1) - 1
        return codes.clamp(-largest, largest) if self.clip < 1 else codes


class FixedRounding(nn.Module):
    """Inputs rounded with one range that calibration has found. Codes of all 8 bits saturate by themselves."""

    scale: Tensor
    zero: Tensor

    def __init__(self, numbers: InputRange) -> None:
        super().__init__()
        self.register_buffer("scale", numbers.scale.reshape(()).to(torch.float32))
        self.register_buffer("zero", numbers.zero_point.reshape(()).to(torch.uint8))
        self.ends = None if (numbers.smallest, numbers.largest) == (0, 255) else numbers.ends

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.ends is None else x.clamp(*self.ends)
        out: Tensor = fixed_range(x, self.scale, self.zero)
        return out


def rounding_of(layer: QuantLinear, target: Target, images: bool = False) -> nn.Module | None:
    """The module that rounds a layer's inputs, with as many bits as products on this CPU keep exact; None for a
    layer whose inputs the graph does not round. Raises ExportError.
    """
    inputs = layer.activations
    if inputs.mode == "none" or target.exact_inputs:
        return None
    if not inputs.entry.integer:
        raise ExportError(
            f"{inputs.format} inputs have no operator in {target.name}; use integers, e.g. scheme=int8_dynamic, or "
            f"format=torch_export"
        )
    bits = getattr(layer, "activation_bits", None) or inputs.bits
    # The products of engines saturate where ours would.
    bits = min(bits, getattr(layer, "input_bits_beside_all", bits))
    if layer.input_range is not None:
        return FixedRounding(layer.input_range.with_bits(bits))
    if inputs.mode == "static":
        raise ExportError("inputs have no static range yet; calibrate the model before it is exported")
    engine_rounds = target.rounds_inputs and inputs.per_token and inputs.bits == 8 and not images
    return None if engine_rounds else DynamicRounding(inputs, bits, images)


def widened(packed: PackedWeight) -> PackedWeight:
    """The same weight with a byte for each code: products of integers take nothing smaller."""
    spec = replace(packed.spec, bits=8)
    codes = unpack(packed.codes, packed.spec.bits, packed.columns)
    shift = spec.symmetric * (2**7 - 2 ** (packed.spec.bits - 1))
    return replace(packed, codes=codes + shift, spec=spec)
