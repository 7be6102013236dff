"""Modules of native convolutions: fused units, exported graphs, and when other backends convolve."""

import logging

import pytest
import torch
from torch import nn

from helpers.linears import DYNAMIC
from vggtq.machine import native
from vggtq.models.vggt.dpt import ResidualConvUnit
from vggtq.quant.kernels.cpu import native_conv
from vggtq.quant.kernels.cpu.native_block import native_unit, use_native_blocks_
from vggtq.quant.kernels.cpu.native_conv import NativeConv, fits_conv, is_right
from vggtq.quant.kernels.modules import QuantConv
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "relu"])
def test_units_of_two_convolutions_fuse_and_compute_the_same(isa: str, plain: bool) -> None:
    torch.manual_seed(0)
    unit = ResidualConvUnit(24, plain).requires_grad_(False)
    for name in ("conv1", "conv2"):
        conv = getattr(unit, name)
        setattr(unit, name, QuantConv(pack_weight(conv.weight.flatten(1), Weights()), conv, DYNAMIC))
    x, model = torch.randn(2, 24, 10, 12), nn.Sequential(unit)
    expected = unit(x)
    assert use_native_blocks_(model) == ["0"] and unit.fused_forward is native_unit
    assert torch.equal(unit(x), expected)
    seen = []
    handle = unit.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert torch.equal(unit(x), expected) and len(seen) == 1  # who listens is heard
    handle.remove()
    unit.conv2 = nn.Conv2d(24, 24, 3, padding=1).requires_grad_(False)
    assert use_native_blocks_(model) == [] and unit.fused_forward is None


def test_exported_and_compiled_graphs_hold_the_operator(isa: str) -> None:
    conv = nn.Conv2d(6, 10, 3, stride=2, padding=1).requires_grad_(False)
    layer = QuantConv(pack_weight(conv.weight.flatten(1), Weights()), conv, DYNAMIC)
    x = torch.randn(2, 6, 8, 9)
    expected = layer(x)
    exported = torch.export.export(layer, (x,))
    assert "vggtq.quantized_convolution" in str(exported.graph)
    assert torch.equal(exported.module()(x), expected)
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)


def test_images_below_a_window_are_refused(isa: str) -> None:
    conv = nn.Conv2d(6, 10, 5).requires_grad_(False)
    layer = QuantConv(pack_weight(conv.weight.flatten(1), Weights()), conv, DYNAMIC)
    with pytest.raises(ValueError, match="images of 4 × 9 are smaller than a window of 5 × 5"):
        layer(torch.randn(1, 6, 4, 9))
    assert layer(torch.randn(0, 6, 9, 9)).shape == (0, 10, 5, 5)


def test_a_wrong_kernel_is_not_used(
    isa: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_right.cache_clear()
    monkeypatch.setattr(native_conv, "traced_convolve", lambda x, *rest: torch.zeros(2, 35, 5, 6))
    with caplog.at_level(logging.WARNING):
        assert not fits_conv(Weights(), DYNAMIC, (8, 9))
    library = native.library()
    assert (
        library is not None
        and f"native_{library.vectors}_conv_w8a" in caplog.text
        and "wrong product" in caplog.text
    )
    is_right.cache_clear()


def test_without_the_library_other_backends_convolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "none")
    native.library.cache_clear()
    try:
        assert not fits_conv(Weights(), DYNAMIC, (8, 9))
        conv = nn.Conv2d(6, 10, 3).requires_grad_(False)
        layer = QuantConv(pack_weight(conv.weight.flatten(1), Weights()), conv, DYNAMIC)
        assert not isinstance(layer.rows, NativeConv)
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (Weights(symmetric=False), DYNAMIC),
        (Weights(bits=4, granularity="group", group_size=32), DYNAMIC),
        (Weights(), Activations()),
        (Weights(bits=16), DYNAMIC),
    ],
    ids=["asymmetric", "groups", "float inputs", "16 bits"],
)
def test_what_no_kernel_knows_is_left_to_others(isa: str, spec: Weights, inputs: Activations) -> None:
    assert not fits_conv(spec, inputs, (8, 72))
