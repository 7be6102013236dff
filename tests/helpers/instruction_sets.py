"""The native kernels on another instruction set than the best of this CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vggtq.machine import native
from vggtq.network.int8_attention import is_right as attention_is_right
from vggtq.quant.kernels.cpu.native_block import is_right as blocks_are_right
from vggtq.quant.kernels.cpu.native_conv import is_right as convolution_is_right
from vggtq.quant.kernels.cpu.native_linear import is_right


def forget() -> None:
    """Lets the library be loaded, and its kernels be checked, anew."""
    checks = (is_right, blocks_are_right, attention_is_right, convolution_is_right)
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
