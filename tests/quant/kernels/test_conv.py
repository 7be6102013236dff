"""Quantized convolutions against float64 convolutions of the same numbers."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.instruction_sets import capped
from vggtq.quant.kernels.cpu.onednn_conv import OneDnnInt8Conv
from vggtq.quant.kernels.cpu.onednn_int8 import onednn_activation_bits
from vggtq.quant.kernels.cpu.window import window_of
from vggtq.quant.kernels.modules import QuantConv, conv_transpose_weight, weight_rows
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers import rounding
from vggtq.quant.numbers.input_codes import affine_codes, affine_parameters
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

DYNAMIC = Activations("dynamic")
needs_onednn = pytest.mark.skipif(
    onednn_activation_bits() is None, reason="this torch has no oneDNN int8 product"
)


@pytest.fixture
def without_native() -> Iterator[None]:
    """Leaves convolutions to oneDNN."""
    with capped("none"):
        yield


def conv2d(*args: int, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs).requires_grad_(False)  # type: ignore[arg-type]


CONVS = {
    "3x3": lambda: conv2d(6, 10, 3, padding=1),
    "stride": lambda: conv2d(6, 10, 3, stride=2, padding=1, bias=False),
    "1x1": lambda: conv2d(6, 1, 1),
    "dilated": lambda: conv2d(6, 10, (3, 2), padding=(2, 1), dilation=(2, 1)),
    "same": lambda: conv2d(6, 10, 3, padding="same"),
    "grouped": lambda: conv2d(6, 10, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(6, 10, 4, stride=4).requires_grad_(False),
    "transposed grouped": lambda: nn.ConvTranspose2d(
        6, 10, 3, stride=2, padding=1, output_padding=1, groups=2
    ).requires_grad_(False),
}


def quantized(conv: nn.Conv2d | nn.ConvTranspose2d, spec: Weights, activations: Activations) -> QuantConv:
    transposed = isinstance(conv, nn.ConvTranspose2d)
    return QuantConv(pack_weight(weight_rows(conv.weight, transposed, conv.groups), spec), conv, activations)


def with_weight(conv: nn.Conv2d | nn.ConvTranspose2d, packed: PackedWeight) -> nn.Module:
    """The float64 convolution with the dequantized weight."""
    twin, rows, shape = copy.deepcopy(conv).double(), packed.dequantize().double(), tuple(conv.weight.shape)
    weight = conv_transpose_weight(rows, shape, conv.groups) if conv.transposed else rows.view(shape)
    twin.weight.copy_(weight)
    return twin


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("bits", [3, 4, 8, 16])
@pytest.mark.parametrize("block", [60, 10**6], ids=["blocks", "at-once"])
def test_weight_only_convolutions_are_those_of_the_dequantized_weight(
    name: str, bits: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "BLOCK_WEIGHTS", block)
    torch.manual_seed(0)
    conv, x = CONVS[name](), torch.randn(2, 6, 12, 13)
    layer = quantized(conv, Weights(bits=bits, symmetric=False), Activations())
    expected = with_weight(conv, layer.rows.packed())(x.double())
    assert (layer.backend, layer.rows.simulated, layer.rows.activation_bits) == ("blocked_conv", False, None)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)


def exact(layer: OneDnnInt8Conv, packed: PackedWeight, image: Tensor) -> Tensor:
    """Σ (x codes - zero) · w codes in float64, which holds these integers; then the scales."""
    scale, zero = affine_parameters(image, layer.activation_bits)
    weight = packed.integer_codes().double().view(layer.out_features, -1, *layer.window.kernel)
    sums = F.conv2d(
        affine_codes(image, scale, zero).double() - zero,
        weight,
        None,
        layer.window.stride,
        layer.window.padding,
        layer.window.dilation,
    )
    assert packed.scale is not None
    out = sums * scale * packed.scale.double().expand(layer.out_features, 1)[:, :, None]
    return out if layer.bias is None else out + layer.bias.double()[:, None, None]


@needs_onednn
@pytest.mark.usefixtures("without_native")
@pytest.mark.parametrize("name", ["3x3", "stride", "1x1", "dilated"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("inputs", ["gaussian", "positive", "extremes", "zeros"])
def test_int8_convolutions_are_exact_on_their_own_codes(name: str, granularity: str, inputs: str) -> None:
    torch.manual_seed(0)
    conv, x = CONVS[name](), torch.randn(3, 6, 12, 13)
    x = {"gaussian": x, "positive": x.relu(), "extremes": x.sign(), "zeros": x * 0}[inputs]
    conv.weight.copy_(conv.weight.sign() if inputs == "extremes" else conv.weight)
    packed = pack_weight(conv.weight.flatten(1), Weights(granularity=granularity))
    layer = QuantConv(packed, conv, DYNAMIC)
    assert isinstance(layer.rows, OneDnnInt8Conv)
    for memory in (torch.contiguous_format, torch.channels_last):
        out = layer(x.contiguous(memory_format=memory))
        for image, got in zip(x.split(1), out.split(1), strict=True):
            expected = exact(layer.rows, packed, image)
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.rows.weight_tensors()["codes"], packed.codes)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@needs_onednn
@pytest.mark.usefixtures("without_native")
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_static_range_serves_all_images_and_saturates(symmetric: bool) -> None:
    torch.manual_seed(0)
    conv, x = CONVS["3x3"](), torch.randn(3, 6, 12, 13)
    packed = pack_weight(conv.weight.flatten(1), Weights())
    layer = QuantConv(packed, conv, Activations("static", symmetric=symmetric))
    layer.rows.set_input_range(InputRange.between(-0.5, 1.5, 8, symmetric))
    assert isinstance(layer.rows, OneDnnInt8Conv) and layer.rows.input_range is not None
    known = layer.rows.input_range.with_bits(layer.rows.activation_bits)
    rounded = known.round_trip(x)
    assert float(rounded.max()) < 1.51 < float(x.max())
    expected = with_weight(conv, packed)(rounded.double())
    # Of halves a few fall to the other side, where x is multiplied by the scale's reciprocal.
    step = float(known.scale) * float(conv.weight.abs().max())
    for memory in (torch.contiguous_format, torch.channels_last):
        assert (layer(x.contiguous(memory_format=memory)) - expected).abs().max() <= 2 * step
        assert ((layer(x) - expected).abs() <= 1e-4).float().mean() > 0.99
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert layer.rows.notes == () or layer.rows.activation_bits == 7
    x[1, 0, 0, 0] = torch.nan
    assert torch.isnan(layer(x)[1]).all() and torch.isfinite(layer(x)[[0, 2]]).all()


@needs_onednn
def test_saturating_instructions_are_avoided() -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 2)]!r}\n"
        "import test_conv as t\n"
        "assert t.onednn_activation_bits() == 7\n"
        "for inputs in ('gaussian', 'positive', 'extremes'):\n"
        "    t.test_int8_convolutions_are_exact_on_their_own_codes('3x3', 'per_channel', inputs)\n"
        "layer = t.quantized(t.CONVS['3x3'](), t.Weights(), t.DYNAMIC)\n"
        "assert layer.rows.activation_bits == 7 and '7 bits' in layer.rows.notes[1]\n"
    )
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "VGGTQ_MAX_ISA": "none"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_onednn
@pytest.mark.usefixtures("without_native")
def test_an_image_with_nan_spoils_only_itself() -> None:
    layer, x = quantized(conv2d(6, 4, 3), Weights(), DYNAMIC), torch.randn(3, 6, 8, 8)
    x[1, 2, 3, 4] = torch.nan
    out = layer(x)
    assert torch.isnan(out[1]).all()
    assert torch.isfinite(out[[0, 2]]).all()


@pytest.mark.usefixtures("without_native")
@pytest.mark.parametrize("name", ["same", "grouped", "transposed", "transposed grouped"])
def test_what_has_no_integer_kernel_is_weight_only(name: str) -> None:
    conv = CONVS[name]()
    assert (window_of(conv) is None) == (name != "transposed")
    assert quantized(conv, Weights(), DYNAMIC).rows.activation_bits is None
    assert quantized(CONVS["3x3"](), Weights(symmetric=False), DYNAMIC).backend == "blocked_conv"


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("low", [-3.0, -1e-3, 0.0, 5.0])
def test_affine_codes_cover_the_range_and_keep_zero(bits: int, low: float) -> None:
    values = torch.linspace(low, 7, 300_000)
    scale, zero = affine_parameters(values, bits)
    codes = affine_codes(values, scale, zero)
    assert int(codes.amax()) <= 2**bits - 1
    assert ((codes.double() - zero) * scale - values.double()).abs().max() <= scale * 0.5001
    assert affine_codes(torch.zeros(1), scale, zero) == zero
    assert affine_codes(values.view(3, -1).t(), scale, zero).equal(codes.view(3, -1).t())
