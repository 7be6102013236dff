"""Linear layers on packed weights: the common base of all backends, and the reference.

A backend either computes in the precision that it claims or is called `reference` and marked simulated: it dequantizes the
weight and multiplies in float, so its speed says nothing about the numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.kernels.cuda.support import triton_problem
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import STORED, PackedWeight
from vggtq.quant.scheme.activations import Activations


class QuantLinear(nn.Module, ABC):
    """y = x ŵᵀ + b for x (…, in_features). Output dtype is x's. Subclasses keep the weight in their kernel's layout.

    With static activations inputs are rounded per token until `set_input_range`.
    """

    backend: str
    simulated: ClassVar[bool] = False
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__()
        self.spec, self.activations = packed.spec, activations
        self.weight_id, self.stored_weight_bytes = packed.identity, packed.stored_bytes
        self.weight_sqnr_db, self.weight_notes = packed.sqnr_db, packed.notes
        self.turn = replace(packed.transform, scale=None)  # the basis that the weight is in, but for scales
        self.out_features, self.in_features = packed.codes.shape[0], packed.columns
        self.bias = bias
        self.register_buffer("activation_scale", None)
        self.register_buffer("activation_zero_point", None)
        if packed.input_range is not None:
            self.set_input_range(packed.input_range)

    def stored_codes(self) -> Tensor:
        """The codes as they are stored; layouts of kernels are undone."""
        return self.get_buffer("codes")

    def weight_tensors(self) -> dict[str, Tensor]:
        """The weight as `PackedWeight.tensors` names it, for saving."""
        named = {"codes": self.stored_codes()} | {name: self._buffers.get(name) for name in STORED[1:]}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def packed(self) -> PackedWeight:
        """The weight as it is stored, made anew from the kernel's layout."""
        return PackedWeight.of(
            self.weight_tensors(),
            self.spec,
            self.in_features,
            identity=self.weight_id,
            input_range=self.input_range,
        )

    @property
    def input_range(self) -> InputRange | None:
        """The range that static activations are rounded with, or None."""
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
        return sum(t.nbytes for t in (*self.buffers(), *self.parameters()))

    @property
    def activation_bits(self) -> int | None:
        """Bits that inputs are really rounded to, None for float inputs."""
        return None if self.activations.mode == "none" else self.activations.bits

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def rule(self) -> str:
        """Why this backend, where another one computes the same numbers (`vggtq.quant.kernels.cpu.rules`); else empty."""
        return ""

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    @abstractmethod
    def multiply(self, rows: Tensor) -> Tensor:
        """rows: (T, in_features). Returns (T, out_features) with the bias added."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Made anew from the codes of another layer of the same scheme, in this kernel's layout."""
        metadata, strict, missing, unexpected, problems = others
        needed = self.weight_tensors()
        given = {name: state_dict[prefix + name] for name in needed if prefix + name in state_dict}
        rest = {key: tensor for key, tensor in state_dict.items() if key.removeprefix(prefix) not in needed}
        lacking: list[str] = []
        super()._load_from_state_dict(rest, prefix, metadata, strict, lacking, unexpected, problems)
        missing += [key for key in lacking if key.removeprefix(prefix) not in needed]
        if given.keys() != needed.keys():
            problems.append(
                f"{prefix}codes are missing: a float state_dict fits a float module, load it before quantize_"
            )
            return
        for name, tensor in needed.items():
            if given[name].shape != tensor.shape:
                shapes = f"{tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
                problems.append(f"{prefix}{name} has shape {shapes}: it was quantized with another scheme")
                return
        packed = PackedWeight.of(
            {name: given[name].to(tensor.device, copy=True) for name, tensor in needed.items()},
            self.spec,
            self.in_features,
            identity=self.weight_id,
            input_range=self.input_range,
            transform=self.turn,
        )
        fresh = vars(type(self)(packed, self.bias, self.activations))
        vars(self).update(
            {k: v for k, v in fresh.items() if "hooks" not in k and k not in ("training", "backend")}
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        # half() and friends are meant for float weights: packed ones move between devices but keep their numbers.
        packed = {id(buffer) for buffer in self.buffers(recurse=False)}
        return super()._apply(lambda t: t.to(fn(t).device) if id(t) in packed else fn(t), recurse)

    def extra_repr(self) -> str:
        spec = self.spec
        return f"{self.in_features}, {self.out_features}, {spec.format}{spec.bits} {spec.granularity}, {self.backend}"


def unknown_range(numbers: Activations) -> Activations:
    """The rounding of static activations while their range is being looked for: each token by its own scale."""
    return Activations("dynamic", numbers.bits)


class ReferenceLinear(QuantLinear):
    """Any numbers on any device: dequantize the whole weight, then a float product."""

    backend = "reference"
    simulated = True

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        for name in STORED:
            self.register_buffer(name, getattr(packed, name))

    @property
    def notes(self) -> tuple[str, ...]:
        problem = triton_problem() if self.get_buffer("codes").is_cuda else None
        return () if problem is None else (problem,)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """ŵ, (out, in)."""
        return self.packed().dequantize(dtype)

    def rounded_inputs(self, rows: Tensor) -> Tensor:
        """rows (T, in) rounded to the activations' numbers and brought back."""
        if self.activations.mode == "none":
            return rows
        if self.input_range is not None:
            return self.input_range.round_trip(rows)
        static = self.activations.mode == "static"
        numbers = unknown_range(self.activations) if static else self.activations
        return numbers.entry.computes.round_inputs(rows, numbers)

    def multiply(self, rows: Tensor) -> Tensor:
        inputs = self.rounded_inputs(rows)
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return F.linear(inputs, self.dequantized(inputs.dtype), bias).to(rows.dtype)
