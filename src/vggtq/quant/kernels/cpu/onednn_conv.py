"""Convolutions of 8-bit integers on the CPU by oneDNN, one image at a time.

Inputs are rounded with the range of each image, found at run time and asymmetric, or with one static range.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vggtq.quant.kernels.cpu.layout import KernelLayoutLinear
from vggtq.quant.kernels.cpu.onednn_int8 import onednn_activation_bits
from vggtq.quant.kernels.cpu.window import Window
from vggtq.quant.numbers.input_codes import affine_codes, affine_parameters, static_codes
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations


class OneDnnInt8Conv(KernelLayoutLinear):
    """W8A8: unsigned input codes with one scale and zero point × signed weight codes into 32 bits, exactly.

    As a linear layer it takes what one window covers, (T, in · height · width).
    """

    backend = "onednn_int8_conv"

    def __init__(
        self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations, window: Window
    ) -> None:
        super().__init__(packed, bias, activations)
        assert packed.scale is not None
        self.window = window
        self._row_scale = packed.scale.to(torch.float32).expand(self.out_features, 1).flatten().contiguous()
        self._no_zero = torch.zeros(self.out_features, dtype=torch.int64)
        codes = packed.integer_codes().to(torch.int8).view(self.out_features, -1, *window.kernel)
        where = (list(window.stride), list(window.padding), list(window.dilation), 1)
        self._weight = torch.ops.onednn.qconv_prepack(codes, self._row_scale, 1.0, 0, *where)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", None)

    def stored_codes(self) -> Tensor:
        codes = self._weight.to_dense().flatten(1).to(torch.int16) + 128
        return codes.to(torch.uint8).contiguous()

    def resident_bytes(self) -> int:
        kept = [self.scale, self._row_scale, self._no_zero, self.bias]
        kept += [self.get_buffer("activation_scale"), self.get_buffer("activation_zero_point")]
        return self._weight.numel() + sum(t.numel() * t.element_size() for t in kept if t is not None)

    @property
    def activation_bits(self) -> int:
        return min(self.activations.bits, onednn_activation_bits() or 8)

    @property
    def notes(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if self.activations.mode == "dynamic":
            notes = ("activations share one scale and zero point per image",)
        if self.activation_bits < self.activations.bits:
            bits = (
                f"{self.activation_bits} bits: this CPU's int8 products saturate with {self.activations.bits}"
            )
            notes += (f"activations have {bits}",)
        return notes

    def input_codes(self, image: Tensor) -> tuple[Tensor, float, int]:
        """The codes that the kernel multiplies, uint8, their scale and zero point. image: float32."""
        if self.input_range is not None:
            return static_codes(image, self.input_range.with_bits(self.activation_bits))
        scale, zero = affine_parameters(image, self.activation_bits)
        return affine_codes(image, scale, zero), scale, zero

    def multiply(self, rows: Tensor) -> Tensor:
        images = rows.view(rows.shape[0], -1, *self.window.kernel)
        return self._convolve(images, Window(self.window.kernel, (1, 1), (0, 0), (1, 1))).flatten(1)

    def convolve(self, x: Tensor) -> Tensor:
        """x: (M, C, H, W), any float dtype. Returns (M, O, H', W') in x's dtype, channels last in memory."""
        return self._convolve(x, self.window)

    @torch.no_grad()
    def _convolve(self, x: Tensor, window: Window) -> Tensor:
        images = [self._one_image(image, window) for image in x.to(torch.float32).split(1)]
        return (images[0] if len(images) == 1 else torch.cat(images)).to(x.dtype)

    def _one_image(self, image: Tensor, window: Window) -> Tensor:
        codes, scale, zero = self.input_codes(image)
        codes = codes.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.to(torch.float32)
        where = (list(window.stride), list(window.padding), list(window.dilation), 1)
        # fmt: off
        return torch.ops.onednn.qconv_pointwise(
            codes, scale, zero, self._weight, self._row_scale, self._no_zero, bias, *where,
            1.0, 0, torch.float32, "none", [], "")
        # fmt: on

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.packed(), self.bias, self.activations, self.window)
