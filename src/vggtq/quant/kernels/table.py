"""The kernel table: which backend computes which numbers where.

A module outside of the package adds its own with `register_kernel`; the latest is asked first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from vggtq.errors import QuantizationError
from vggtq.quant.kernels.cpu import onednn_int8
from vggtq.quant.kernels.cpu.blocked import BlockedLinear
from vggtq.quant.kernels.cpu.native_conv import NativeConv, fits_conv
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, fits
from vggtq.quant.kernels.cpu.onednn_conv import OneDnnInt8Conv
from vggtq.quant.kernels.cpu.rules import int8_on_amx
from vggtq.quant.kernels.cpu.torch_dynamic import TorchDynamicLinear
from vggtq.quant.kernels.cpu.window import Window
from vggtq.quant.kernels.cuda import support
from vggtq.quant.kernels.cuda.rounded_rows import LARGEST_ROW
from vggtq.quant.kernels.cuda.support import ADA, AMPERE
from vggtq.quant.kernels.cuda.torch_layers import CudaHalfLinear
from vggtq.quant.kernels.cuda.triton_layers import Float8Linear, PackedWeightLinear, TritonInt8Linear
from vggtq.quant.kernels.linear import QuantLinear, ReferenceLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


@dataclass(frozen=True)
class Case:
    """The task of a layer: numbers of its weight and inputs, (out, in) of the weight, and the device."""

    spec: Weights
    inputs: Activations
    shape: tuple[int, int]
    device: torch.device

    @property
    def weight_only(self) -> bool:
        return self.inputs.mode == "none"

    @property
    def bytes_by_row(self) -> bool:
        """Whether weights have 8 bits, and each row one scale at most."""
        return self.spec.bits == 8 and (self.spec.granularity != "group" or self.spec.group_size is None)


@dataclass(frozen=True)
class Kernel:
    """A line of the table. `layer` has the name of the backend, and says whether it is simulated.

    device: the one it runs on. formats: of weights. Both are empty for any. when: further conditions.
    """

    layer: type[QuantLinear]
    device: str = ""
    formats: tuple[str, ...] = ()
    when: Callable[[Case], bool] = lambda case: True
    named: str = "fastest"  # as in scheme.activations.kernel; others are taken where they are asked for alone

    def computes(self, case: Case) -> bool:
        here = case.inputs.kernel == self.named and (not self.device or case.device.type == self.device)
        return here and (not self.formats or case.spec.format in self.formats) and self.when(case)


def _fits_triton(case: Case, least: tuple[int, int]) -> bool:
    """Inputs are rounded a row at a time, each by one program."""
    rows = case.inputs.per_token and case.shape[1] <= LARGEST_ROW
    return rows and support.runs_triton(case.device, least)


def _fits_onednn(case: Case) -> bool:
    rounded = not case.weight_only and case.inputs.clip == 1
    return rounded and case.bytes_by_row and onednn_int8.onednn_activation_bits() is not None


def _fits_native(case: Case) -> bool:
    left = case.bytes_by_row and case.spec.symmetric and not case.weight_only and int8_on_amx(case.shape)
    return not (left and _fits_onednn(case)) and fits(case.spec, case.inputs, case.shape)


# The first that computes a case gets it. On CUDA: from Ampere on for integers, from Ada on for 8-bit floats.
KERNELS: list[Kernel] = [
    Kernel(NativeLinear, "cpu", when=_fits_native),
    Kernel(onednn_int8.OneDnnInt8Linear, "cpu", ("int",), _fits_onednn),
    Kernel(TritonInt8Linear, "cuda", ("int",), lambda c: c.bytes_by_row and _fits_triton(c, AMPERE)),
    Kernel(Float8Linear, "cuda", ("float8_e4m3",), lambda c: _fits_triton(c, ADA)),
    Kernel(
        PackedWeightLinear,
        "cuda",
        ("int",),
        lambda c: (
            c.weight_only
            and c.spec.bits <= 8
            and not c.spec.progressive
            and support.runs_triton(c.device, AMPERE)
        ),
    ),
    Kernel(CudaHalfLinear, "cuda", ("float16", "bfloat16")),
    Kernel(BlockedLinear, "cpu", when=lambda c: c.weight_only),
    Kernel(ReferenceLinear),
    Kernel(TorchDynamicLinear, "cpu", named="torch"),
]
# Of convolutions that have a window (`cpu.window`).
CONVOLUTIONS = (
    Kernel(NativeConv, "cpu", ("int",), lambda c: fits_conv(c.spec, c.inputs, c.shape)),
    Kernel(OneDnnInt8Conv, "cpu", ("int",), lambda c: c.spec.symmetric and _fits_onednn(c)),
)


def convolution_backend(case: Case, window: Window) -> type[NativeConv] | type[OneDnnInt8Conv] | None:
    """The first backend that convolves integers so; None where the weight becomes float instead."""
    for kernel in CONVOLUTIONS:
        if kernel.computes(case):
            if issubclass(kernel.layer, NativeConv):
                return kernel.layer
            if issubclass(kernel.layer, OneDnnInt8Conv) and not window.transposed:
                return kernel.layer
    return None


def register_kernel(kernel: Kernel) -> None:
    """Puts a kernel in front of the others; the same one may come again."""
    if kernel not in KERNELS:
        KERNELS.insert(0, kernel)


def linear_backend(
    spec: Weights,
    activations: Activations,
    shape: tuple[int, int],
    device: torch.device,
    among: type[QuantLinear] | tuple[type[QuantLinear], ...] = QuantLinear,
) -> type[QuantLinear]:
    """The first backend that computes these numbers here; `reference` takes whatever is left.

    among: base classes to keep to. Raises QuantizationError where the kernel that a scheme names is not for this device.
    """
    case = Case(spec, activations, shape, device)
    for kernel in KERNELS:
        if issubclass(kernel.layer, among) and kernel.computes(case):
            return kernel.layer
    raise QuantizationError(
        f"scheme.activations.kernel={activations.kernel} does not run on {device.type}; use device=cpu"
    )


def quantized_linear(
    packed: PackedWeight, bias: nn.Parameter | None, activations: Activations
) -> QuantLinear:
    """The fastest honest layer for these numbers on the device that the weight is on."""
    shape, device = (packed.codes.shape[0], packed.columns), packed.codes.device
    return linear_backend(packed.spec, activations, shape, device)(packed, bias, activations)
