"""When native layers are chosen, and what takes their place where a kernel is wrong, capped or not built."""

import logging
from pathlib import Path

import pytest
import torch

from helpers.instruction_sets import built, capped, use
from helpers.linears import DYNAMIC, draw
from vggtq.errors import ConfigError
from vggtq.machine import native
from vggtq.quant.kernels.cpu import native_linear, rules
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, in_product, is_right
from vggtq.quant.kernels.cpu.onednn_int8 import OneDnnInt8Linear
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.native import operator
from vggtq.quant.kernels.table import linear_backend
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.weights import Weights

CPU = torch.device("cpu")


@built
def test_a_wrong_kernel_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert linear_backend(Weights(bits=5), DYNAMIC, (64, 64), CPU) is NativeLinear
    is_right.cache_clear()
    monkeypatch.setattr(native_linear, "traced_linear", lambda x, *rest: operator.linear(x, *rest) + 1)
    with caplog.at_level(logging.WARNING):
        assert linear_backend(Weights(bits=5), DYNAMIC, (64, 64), CPU) is ReferenceLinear
    assert "gave a wrong product" in caplog.text
    is_right.cache_clear()


@built
def test_without_tiles_of_its_own_the_library_leaves_large_bytes_to_onednn_on_amx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "has_amx", lambda: True)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    large, small, library = (1024, 1024), (64, 64), native.library()
    monkeypatch.setattr(library, "isa", "amx")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is NativeLinear
    monkeypatch.setattr(library, "isa", "avx512_vnni")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is OneDnnInt8Linear
    for other, shape in ((Weights(), small), (Weights(symmetric=False), large), (Weights(bits=4), large)):
        assert linear_backend(other, DYNAMIC, shape, CPU) is NativeLinear
    monkeypatch.setenv(native.VARIABLE, "avx512_vnni")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is NativeLinear


def test_the_instruction_set_can_be_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    use("none", monkeypatch)
    assert native.library() is None
    assert native.describe() == "not used: VGGTQ_MAX_ISA=none"
    assert linear_backend(Weights(bits=4), DYNAMIC, (64, 64), CPU) is ReferenceLinear
    use("avx3", monkeypatch)
    with pytest.raises(ConfigError, match="VGGTQ_MAX_ISA=avx3 is not one of none, portable"):
        native.library()
    monkeypatch.undo()
    native.library.cache_clear()


def test_without_a_library_torch_is_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "FILE", tmp_path / "vggtq_native.so")
    for cached in (native.library, native.problem):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert linear_backend(Weights(), DYNAMIC, (64, 64), CPU).backend in (
            "onednn_int8",
            "reference",
        )
        assert linear_backend(Weights(), DYNAMIC, (64, 64), CPU).backend in (
            "onednn_int8",
            "reference",
        )
    assert caplog.text.count("native kernels are not used: the library was not built") == 1
    assert native.describe().startswith("the library was not built")
    monkeypatch.undo()
    for cached in (native.library, native.problem):
        cached.cache_clear()


@built
def test_where_products_would_saturate_weights_lose_a_bit_and_activations_none() -> None:
    packed = pack_weight(draw("normal", 32, 64), Weights())
    with capped("avx2"):
        layer = NativeLinear(packed, None, DYNAMIC)
        if layer.product_bits != 7:
            pytest.skip("no AVX2 here")
        assert layer.activation_bits == 8 and layer.backend == "native_avx2_w7a8"
        assert layer.notes == (
            "weights are rounded to 7 bits in the product: this CPU's int8 products saturate with 8",
        )
        assert torch.equal(layer.stored_codes(), packed.codes), "files keep all bits"
        codes = in_product(packed, 7).integer_codes()
        assert torch.equal(codes.float(), (packed.integer_codes().float() / 2).round())
        zeros = pack_weight(draw("normal", 32, 64), Weights(symmetric=False))
        asymmetric = NativeLinear(zeros, None, DYNAMIC)
        assert (asymmetric.product_bits, asymmetric.activation_bits) == (8, 7)
