"""Linear layers on packed weights: what all backends share, and the reference.

A backend either computes in the precision that it claims or is called `reference` and marked simulated: it dequantizes the
weight and multiplies in float, so its speed says nothing about the numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.activations import fake_quantize
from vggtq.quant.float4 import fake_quantize_float4
from vggtq.quant.float8 import fake_quantize_float8
from vggtq.quant.input_range import InputRange
from vggtq.quant.numbers import FLOAT4
from vggtq.quant.packed import PackedWeight
from vggtq.quant.scheme import FLOAT8, Activations, Weights


class QuantLinear(nn.Module, ABC):
    """y = x ŵᵀ + b for x (…, in_features). Output dtype is x's. Subclasses keep the weight in their kernel's layout.

    With static activations inputs are rounded per token until `set_input_range`.
    """

    backend: ClassVar[str]
    simulated: ClassVar[bool] = False
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__()
        self.spec, self.activations = packed.spec, activations
        self.weight_id, self.stored_weight_bytes = packed.identity, packed.stored_bytes
        self.out_features, self.in_features = packed.codes.shape[0], packed.columns
        self.bias = bias
        self.register_buffer("activation_scale", None)
        self.register_buffer("activation_zero_point", None)
        if packed.input_range is not None:
            self.set_input_range(packed.input_range)

    @staticmethod
    @abstractmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        """Whether this backend computes these numbers for a weight of (out, in) on this device."""

    @abstractmethod
    def weight_tensors(self) -> dict[str, Tensor]:
        """The weight as `PackedWeight.tensors` names it, for saving; layouts of kernels are undone."""

    @property
    def input_range(self) -> InputRange | None:
        """What static activations are rounded with."""
        scale, zero = self._buffers["activation_scale"], self._buffers["activation_zero_point"]
        if scale is None or zero is None:
            return None
        return InputRange(scale, zero, self.activations.bits, self.activations.symmetric)

    def set_input_range(self, numbers: InputRange) -> None:
        """Rounds inputs with these numbers from now on."""
        device = next((buffer.device for buffer in self.buffers()), numbers.scale.device)
        self._buffers["activation_scale"] = numbers.scale.to(device)
        self._buffers["activation_zero_point"] = numbers.zero_point.to(device)

    def resident_bytes(self) -> int:
        """Bytes of the weight as held in memory, bias and input range included."""
        return sum(t.numel() * t.element_size() for t in (*self.buffers(), *self.parameters()))

    @property
    def activation_bits(self) -> int | None:
        """Bits that inputs are really rounded to, None for float inputs."""
        return None if self.activations.mode == "none" else self.activations.bits

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def rule(self) -> str:
        """Why this backend, where another one computes the same numbers (`vggtq.quant.cpu_rules`); else empty."""
        return ""

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    @abstractmethod
    def multiply(self, rows: Tensor) -> Tensor:
        """rows: (T, in_features). Returns (T, out_features) with the bias added."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        # half() and friends are meant for float weights: packed ones move between devices but keep their numbers.
        packed = {id(buffer) for buffer in self.buffers(recurse=False)}
        return super()._apply(lambda t: t.to(fn(t).device) if id(t) in packed else fn(t), recurse)

    def extra_repr(self) -> str:
        spec = self.spec
        return f"{self.in_features}, {self.out_features}, {spec.format}{spec.bits} {spec.granularity}, {self.backend}"


def unknown_range(numbers: Activations) -> Activations:
    """How inputs of static activations are rounded while their range is being looked for: each token by its own scale."""
    return Activations("dynamic", numbers.bits)


class ReferenceLinear(QuantLinear):
    """Any numbers on any device: dequantize the whole weight, then a float product."""

    backend = "reference"
    simulated = True

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        for name in ("codes", "scale", "zero_point", "tensor_scale"):
            self.register_buffer(name, getattr(packed, name))

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return True

    def weight_tensors(self) -> dict[str, Tensor]:
        return self._packed().tensors

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """ŵ, (out, in)."""
        return self._packed().dequantize(dtype)

    def _packed(self) -> PackedWeight:
        codes, scale = self.get_buffer("codes"), self.get_buffer("scale")
        numbers = (self.get_buffer("zero_point"), self.spec, self.in_features, 0.0, 0.0)
        return PackedWeight(codes, scale, *numbers, tensor_scale=self.get_buffer("tensor_scale"))

    def rounded_inputs(self, rows: Tensor) -> Tensor:
        """rows (T, in) rounded to the activations' numbers and brought back."""
        if self.activations.mode == "none":
            return rows
        if self.activations.format == FLOAT8:
            return fake_quantize_float8(rows)
        if self.activations.format in FLOAT4:
            return fake_quantize_float4(rows, self.activations.format)
        if self.activations.mode == "dynamic":
            return fake_quantize(rows, self.activations)
        known = self.input_range
        return known.round_trip(rows) if known else fake_quantize(rows, unknown_range(self.activations))

    def multiply(self, rows: Tensor) -> Tensor:
        inputs = self.rounded_inputs(rows)
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return F.linear(inputs, self.dequantized(inputs.dtype), bias).to(rows.dtype)
