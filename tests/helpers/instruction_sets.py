"""The native kernels on another instruction set than the best of this CPU, and what only some CPUs can do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import nn

from vggtq.machine import native
from vggtq.network.native_attention import is_right as attention_is_right
from vggtq.quant.kernels.cpu.native_block import is_right as blocks_are_right
from vggtq.quant.kernels.cpu.native_conv import is_right as convolution_is_right
from vggtq.quant.kernels.cpu.native_linear import bfloat16_is_right, is_right
from vggtq.quant.kernels.cpu.onednn_int8 import onednn_activation_bits
from vggtq.quant.kernels.linear import QuantLinear


def forget() -> None:
    """Lets the library be loaded, and its kernels be checked, anew."""
    checks = (is_right, bfloat16_is_right, blocks_are_right, attention_is_right, convolution_is_right)
    for cached in (native.library, *checks):
        cached.cache_clear()


def use(isa: str, patch: pytest.MonkeyPatch) -> None:
    """Sets VGGTQ_MAX_ISA."""
    patch.setenv(native.VARIABLE, isa)
    forget()


@contextmanager
def capped(isa: str) -> Iterator[None]:
    """The same for a while."""
    with pytest.MonkeyPatch.context() as patch:
        use(isa, patch)
        yield
    forget()


def skip_where_onnx_runtime_saturates(model: nn.Module) -> None:
    """Skips a test that needs exact products of 8-bit codes from ONNX Runtime, which CPUs without VNNI do not have there."""
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    eight = any(layer.activations.mode != "none" and layer.spec.bits == 8 for layer in layers)
    if eight and onednn_activation_bits() == 7:
        pytest.skip("ONNX Runtime's int8 products saturate on this CPU")


built = pytest.mark.skipif(native.problem() is not None, reason=f"no native kernels: {native.problem()}")
