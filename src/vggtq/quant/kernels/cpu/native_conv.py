"""Convolutions of integers on the native kernels: weights of 2 to 8 bits in rows that share a scale, kept as bytes.

Inputs are rounded once, before windows are laid over them: each pixel with a scale of its own, the numbers of a linear layer's
tokens, or, where a range is static, has a zero point or is one for all, each image with one. Products are summed exactly in 32
bits: over a whole window where its pixels share a scale, else over each place in it, and from there on in float32.

A transposed convolution whose windows do not overlap is a product per pixel, whose outputs are its window.
"""

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.machine.native import library
from vggtq.quant.kernels.cpu.layout import KernelLayoutLinear
from vggtq.quant.kernels.cpu.native_linear import MOST_INPUTS
from vggtq.quant.kernels.cpu.window import Window
from vggtq.quant.kernels.native.convolution import taps_from_panels, taps_to_panels, traced_convolve
from vggtq.quant.kernels.native.layout import groups_to_panels
from vggtq.quant.kernels.native.operator import Rounding
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import MOST_PROGRESSIVE, Weights

log = logging.getLogger(__name__)

INPUTS, RESIDUAL, OUTPUTS = 1, 2, 4  # tensors that go through ReLU, as numbered by `convolve` of the operator


class NativeConv(KernelLayoutLinear):
    """As a linear layer it accepts the inputs that one window covers, (T, in · height · width).

    panels, sums, scales: as VggtqConvolution of interface.h names them. Integer scales of groups are multiplied into the bytes.
    """

    backend = "native_conv"
    panels: Tensor

    def __init__(
        self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations, window: Window
    ) -> None:
        self._fixed: tuple[float, ...] | None = None  # bits … smallest of the operator
        native = library()
        if native is None:
            raise RuntimeError(
                "there is no library of native kernels here; quantize_ chooses another backend then"
            )
        self._panel = native.panel
        # Integer scales make bytes of fewer bits as large as those of eight.
        self._exact_bits = native.input_bits(8 if packed.spec.progressive else packed.spec.bits, True)
        super().__init__(packed, bias, activations)
        self.window = window
        self.backend = f"native_{native.vectors}_conv_w{self.spec.bits}a{self.activation_bits}"
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", None)
        self.register_buffer("tensor_scale", packed.tensor_scale)
        for name, tensor in self._laid_out(packed).items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def activation_bits(self) -> int:
        return min(self.activations.bits, self._exact_bits)

    @property
    def notes(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if not self._per_pixel and self.activations.mode == "dynamic":
            shared = "scale" if self.activations.symmetric else "scale and zero point"
            notes = (f"activations share one {shared} per image",)
        if self.activation_bits < self.activations.bits:
            bits = (
                f"{self.activation_bits} bits: this CPU's int8 products saturate with {self.activations.bits}"
            )
            notes += (f"activations have {bits}",)
        return notes

    @property
    def _per_pixel(self) -> bool:
        numbers = self.activations
        return numbers.symmetric and numbers.scale_granularity == "per_token"

    def set_input_range(self, numbers: InputRange) -> None:
        super().set_input_range(numbers)
        known = numbers.with_bits(self._exact_bits)
        self._fixed = (known.bits, 1.0, float(known.scale), int(known.zero_point), known.smallest)

    def stored_codes(self) -> Tensor:
        taps, outputs = self.window.taps, self.out_features
        channels = self.in_features // taps
        if self.window.transposed:
            codes = taps_from_panels(self.panels, taps * outputs, channels).view(taps, outputs, channels)
            codes = codes.permute(1, 2, 0)
        else:
            codes = taps_from_panels(self.panels, outputs, channels).transpose(1, 2)
        exact = codes.reshape(outputs, self.in_features).to(torch.int32)
        if self.spec.progressive:
            exact = exact // self._per_column(self.get_buffer("scale"))
        return pack((exact + 2 ** (self.spec.bits - 1)).to(torch.uint8), self.spec.bits)

    def multiply(self, rows: Tensor) -> Tensor:
        """The products of rows of inputs with the weight. A transposed window stands for as many pixels as it
        has taps; each pixel contributes one place of it.
        """
        images = rows.view(rows.shape[0], -1, *self.window.kernel)
        if not self.window.transposed:
            return self._convolve(images, Window(self.window.kernel, (1, 1))).flatten(1)
        pixels = images.flatten(2).transpose(1, 2).reshape(1, -1, self.in_features // self.window.taps, 1)
        places = self._convolve(pixels.transpose(1, 2), Window((1, 1), (1, 1)))[0, ..., 0]
        chosen = places.view(self.window.taps, self.out_features, len(rows), self.window.taps)
        total = torch.diagonal(chosen, dim1=0, dim2=3).sum(-1).t()
        return total if self.bias is None else total - (self.window.taps - 1) * self.bias.to(total.dtype)

    def convolve(self, x: Tensor, positive: int = 0, residual: Tensor | None = None) -> Tensor:
        """x: (M, C, H, W), any float dtype. Returns (M, O, H', W') in x's dtype, channels last in memory.

        positive: the tensors that go through ReLU, a sum of INPUTS, RESIDUAL, OUTPUTS. residual: like the
        output, to be added to it.
        """
        window = self.window
        if not window.transposed:
            return self._convolve(x, window, positive, residual)
        places = self._convolve(x, Window((1, 1), (1, 1)), positive)
        (images, _, height, width), (rows, columns) = places.shape, window.kernel
        blocks = places.permute(0, 2, 3, 1).view(images, height, width, rows, columns, self.out_features)
        whole = blocks.transpose(2, 3).reshape(images, height * rows, width * columns, self.out_features)
        return whole.permute(0, 3, 1, 2)

    def _convolve(
        self, x: Tensor, window: Window, positive: int = 0, residual: Tensor | None = None
    ) -> Tensor:
        taps = self.window.taps
        bias: Tensor | None = self.bias
        count = self.out_features * (taps if self.window.transposed else 1)
        if self.window.transposed and bias is not None:
            bias = bias.repeat(taps)
        steps = [*window.kernel, *window.stride, *window.padding, *window.dilation]
        buffers = self._buffers
        weight = (buffers["panels"], buffers["sums"], buffers["scales"])
        return traced_convolve(x, *weight, bias, residual, count, steps, *self._input_numbers(), positive)

    def _input_numbers(self) -> tuple[float, ...]:
        """rounding … exact_bits of the operator."""
        numbers, exact = self.activations, self._exact_bits
        if self._fixed is not None:
            return Rounding.FIXED.value, *self._fixed, exact
        rounding, clip = Rounding.TOKEN_SYMMETRIC, 1.0
        if numbers.mode == "dynamic":  # rounded per pixel while a static range is being looked for
            clip = numbers.clip
            if not numbers.symmetric:
                rounding = Rounding.TENSOR_AFFINE
            elif not self._per_pixel:
                rounding = Rounding.TENSOR_SYMMETRIC
        return rounding.value, numbers.bits, clip, 1.0, 0, 0, exact

    def _laid_out(self, packed: PackedWeight) -> dict[str, Tensor]:
        window, outputs = self.window, self.out_features
        exact = packed.integer_codes()
        assert packed.scale is not None
        scale = packed.scale.to(torch.float32).expand(outputs, -1)
        if self.spec.progressive:
            assert packed.tensor_scale is not None
            exact, scale = exact * self._per_column(packed.scale), packed.tensor_scale
        codes = exact.to(torch.int8).view(outputs, -1, window.taps).transpose(1, 2)
        if window.transposed:
            codes, scale = codes.transpose(0, 1).flatten(0, 1)[:, None], scale.repeat(window.taps, 1)
        panels = taps_to_panels(codes, self._panel)
        scales = groups_to_panels(scale, len(codes), self._panel)
        sums = panels.sum(dim=(2, 4), dtype=torch.int32)
        return {"panels": panels, "sums": sums, "scales": scales}

    def _per_column(self, scale: Tensor) -> Tensor:
        """Integer scales (O, groups) → (O, in), int32."""
        size = group_columns(self.in_features, self.spec)
        return scale.to(torch.int32).repeat_interleave(size, dim=1)[:, : self.in_features]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.packed(), self.bias, self.activations, self.window)


def fits_conv(spec: Weights, inputs: Activations, shape: tuple[int, int]) -> bool:
    """Whether the kernels convolve with rows of (out, in · height · width) on this CPU, and do so rightly."""
    whole_rows = spec.progressive or spec.granularity != "group" or group_columns(shape[1], spec) >= shape[1]
    integers = spec.entry.integer and spec.bits <= 8 and spec.symmetric and whole_rows
    rounded = inputs.mode != "none" and inputs.format == "int"
    if not (integers and rounded and 0 < shape[1] <= MOST_INPUTS) or library() is None:
        return False
    return is_right(spec.bits, spec.progressive, inputs.symmetric)


@functools.cache
def is_right(bits: int, progressive: bool, symmetric: bool) -> bool:
    """Whether a small convolution of whole numbers gives the same results as exact sums.

    A wrong one is not used from then on, and a line in the log says so.
    """
    spec = Weights(bits=bits)
    if progressive:
        spec = Weights("int", bits, True, "group", 32, "progressive")
    outputs, channels = 35, 7
    generator = torch.Generator().manual_seed(bits)

    def draw(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=generator)

    with torch.device("cpu"):  # whatever the caller's default is
        codes = draw(1, 2**bits - 1, outputs, channels * 9).to(torch.uint8)
        codes[0], codes[1] = 2**bits - 1, 1
        scale, channel = 2.0 ** (draw(0, 4, outputs, 1).float() - 2), None
        if progressive:
            scale, channel = draw(1, MOST_PROGRESSIVE, outputs, 2).to(torch.uint8), scale
        packed = PackedWeight(
            pack(codes, bits), scale, None, spec, codes.shape[1], 0.0, 0.0, tensor_scale=channel
        )
        window = Window((3, 3), (1, 1), (1, 1))
        layer = NativeConv(packed, None, Activations("dynamic", symmetric=symmetric), window)
        largest = 2 ** (layer.activation_bits - 1) - 1
        x = draw(-largest, largest, 2, channels, 5, 6).to(torch.float32)
        x[:, 0], x[:, 1] = largest, -largest
        weight = packed.dequantize(torch.float64).view(outputs, channels, 3, 3)
        right = torch.equal(layer.convolve(x).double(), nn.functional.conv2d(x.double(), weight, padding=1))
    if not right:
        log.warning("%s is not used: it gave a wrong product here", layer.backend)
    return right
