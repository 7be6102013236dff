"""Every backend against exact arithmetic on its own codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.linears import DYNAMIC, INPUTS, KINDS, draw
from vggtq.quant.kernels.cpu import native_linear, onednn_int8
from vggtq.quant.kernels.cpu.onednn_int8 import OneDnnInt8Linear, onednn_activation_bits
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.table import linear_backend, quantized_linear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    onednn_activation_bits() is None, reason="this torch has no oneDNN int8 product"
)


def exact_product(layer: OneDnnInt8Linear, packed: PackedWeight, x: Tensor) -> Tensor:
    """Σ (x codes - zero) (w codes - zero) in int64, scales applied in float64."""
    codes, scale, zero = layer.input_codes(x)
    weight = packed.integer_codes().to(torch.int64)
    if packed.zero_point is not None:
        weight = weight - packed.zero_point.to(torch.int64)
    sums = (codes.to(torch.int64) - torch.as_tensor(zero).to(torch.int64)) @ weight.t()
    assert packed.scale is not None
    return (
        sums.double() * torch.as_tensor(scale).double() * packed.scale.double().expand(weight.shape[0], 1).t()
    )


@needs_onednn
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("inputs", KINDS)
def test_onednn_is_exact_on_its_own_codes(
    symmetric: bool, granularity: str, weights: str, inputs: str
) -> None:
    packed = pack_weight(
        draw(weights, 48, 512, seed=1), Weights(symmetric=symmetric, granularity=granularity)
    )
    layer = OneDnnInt8Linear(packed, None, DYNAMIC)
    x = draw(inputs, 70, 512, seed=2)
    expected = exact_product(layer, packed, x)
    # float32 sums of at most two terms: a few units in the last place of the largest intermediate
    bound = 1e-6 * (
        expected.abs().amax() + (x.abs().sum(1).amax() * draw(weights, 48, 512, seed=1).abs().amax())
    )
    assert (layer(x) - expected).abs().max() <= bound


ROUNDED = {name: INPUTS[name] for name in INPUTS if name not in ("per token", "4 bits")}


@needs_onednn
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("numbers", ROUNDED)
@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("inputs", KINDS)
def test_onednn_is_exact_however_inputs_are_rounded(
    symmetric: bool, numbers: str, weights: str, inputs: str
) -> None:
    weight, bias, x = draw(weights, 48, 512, seed=1), torch.randn(48), draw(inputs, 70, 512, seed=2)
    packed, activations = pack_weight(weight, Weights(symmetric=symmetric)), ROUNDED[numbers]
    layer = OneDnnInt8Linear(packed, nn.Parameter(bias), activations)
    if activations.mode == "static":  # a third of the range saturates
        layer.set_input_range(InputRange.between(-0.7, 0.7, activations.bits, activations.symmetric))
    codes, scale, zero = layer.input_codes(x)
    assert int(codes.max()) <= 2**layer.activation_bits - 1
    back = (codes.double() - torch.as_tensor(zero)) * torch.as_tensor(scale)
    inside = x.abs() < 0.69 if activations.mode == "static" else torch.ones_like(x, dtype=torch.bool)
    assert ((back - x).abs() <= torch.as_tensor(scale) * 1.001)[inside].all()
    expected = exact_product(layer, packed, x)
    # The kernel sums around the middle code, updates are of the same size: a few units in the last place of the largest.
    bound = 2e-6 * (expected.abs().amax() + back.abs().sum(1).amax() * weight.abs().amax() * 4)
    with torch.no_grad():
        assert (layer(x) - bias - expected).abs().max() <= bound
        reference = ReferenceLinear(packed, nn.Parameter(bias), activations)
        if layer.input_range is not None:
            reference.set_input_range(layer.input_range)
        if layer.activation_bits == activations.bits:  # the reference has all bits that it was given
            step = torch.as_tensor(scale).max() * weight.abs().sum(1).max()
            assert (layer(x) - reference(x)).abs().max() <= 0.05 * step + bound


@needs_onednn
def test_broken_inputs_show_where_tokens_share_a_scale() -> None:
    for activations in ROUNDED.values():
        layer = OneDnnInt8Linear(pack_weight(draw("gaussian", 8, 16), Weights()), None, activations)
        if activations.mode == "static":
            layer.set_input_range(InputRange.between(-1, 1, activations.bits, activations.symmetric))
        for bad in (torch.nan, torch.inf):
            x = draw("gaussian", 3, 16)
            x[1, 2] = bad
            assert not layer(x)[1].isfinite().any()


@needs_onednn
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_multiplied_a_few_at_a_time(
    symmetric: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_weight(draw("gaussian", 24, 64), Weights(symmetric=symmetric))
    x = draw("outliers", 70, 64, seed=2).to(dtype)
    layer = OneDnnInt8Linear(packed, nn.Parameter(torch.randn(24)), DYNAMIC)
    at_once = layer(x)
    monkeypatch.setattr(onednn_int8, "TOKENS_AT_A_TIME", 16)
    torch.testing.assert_close(layer(x), at_once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activations", [Activations(), DYNAMIC], ids=["float", "dynamic"])
def test_biases_may_be_stored_in_half_precision(dtype: torch.dtype, activations: Activations) -> None:
    packed, bias, x = (
        pack_weight(draw("gaussian", 8, 16), Weights()),
        torch.randn(8).to(dtype),
        draw("uniform", 3, 16),
    )
    half, full = (
        quantized_linear(packed, nn.Parameter(b), activations)(x) for b in (bias, bias.to(torch.float32))
    )
    assert torch.equal(half, full)


@needs_onednn
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_onednn_gives_its_codes_back(symmetric: bool) -> None:
    packed = pack_weight(draw("gaussian", 24, 40), Weights(symmetric=symmetric))
    kept = OneDnnInt8Linear(packed, None, DYNAMIC).weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in packed.tensors.items())


@needs_onednn
def test_saturating_instructions_are_detected_and_avoided() -> None:
    """With VNNI switched off in oneDNN, pairs of products saturate: the layer must see it, use 7 bits, and stay exact."""
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 2)]!r}\n"
        "import test_linear as t\n"
        "assert t.onednn_activation_bits() == 7\n"
        "for weights in t.KINDS:\n"
        "    for inputs in t.KINDS:\n"
        "        t.test_onednn_is_exact_on_its_own_codes(False, 'per_channel', weights, inputs)\n"
        "        t.test_onednn_is_exact_on_its_own_codes(True, 'per_channel', weights, inputs)\n"
        "        for numbers in t.ROUNDED:\n"
        "            t.test_onednn_is_exact_however_inputs_are_rounded(True, numbers, weights, inputs)\n"
        "            t.test_onednn_is_exact_however_inputs_are_rounded(False, numbers, weights, inputs)\n"
        "layer = t.OneDnnInt8Linear(t.pack_weight(t.draw('gaussian', 8, 16), t.Weights()), None, t.DYNAMIC)\n"
        "assert layer.activation_bits == 7 and '7 bits' in layer.notes[0]\n"
    )
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_onednn
def test_a_row_of_zeros_gives_the_bias_and_a_nan_stays_in_its_row() -> None:
    layer = OneDnnInt8Linear(
        pack_weight(draw("gaussian", 8, 16), Weights()), nn.Parameter(torch.arange(8.0)), DYNAMIC
    )
    x = draw("gaussian", 3, 16)
    x[0] = 0
    x[1, 2] = torch.nan
    out = layer(x)
    assert torch.equal(out[0], torch.arange(8.0))
    assert torch.isnan(out[1]).all()
    assert torch.isfinite(out[2]).all()


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 5, 16), (0, 16)], ids=str)
@pytest.mark.parametrize("activations", [Activations(), DYNAMIC], ids=["float", "dynamic"])
def test_leading_axes_and_dtypes_pass_through(shape: tuple[int, ...], activations: Activations) -> None:
    packed = pack_weight(draw("gaussian", 8, 16), Weights())
    for backend in {linear_backend(Weights(), activations, (8, 16), CPU), ReferenceLinear}:
        for dtype in (torch.float32, torch.bfloat16):
            out = backend(packed, nn.Parameter(torch.zeros(8)), activations)(torch.ones(shape, dtype=dtype))
            assert out.shape == (*shape[:-1], 8)
            assert out.dtype == dtype


@pytest.mark.parametrize(
    ("spec", "activations", "device", "expected"),
    [
        (Weights(), Activations(), "cpu", "blocked"),
        (Weights(bits=3, granularity="group", group_size=20), Activations(), "cpu", "blocked"),
        (Weights(bits=4, granularity="group", group_size=32), DYNAMIC, "cpu", "reference"),
        (Weights(bits=4), Activations("static"), "cpu", "reference"),
        (Weights(), Activations("static"), "meta", "reference"),
        (Weights(), Activations("dynamic", 4, clip=0.9), "cpu", "reference"),
        (Weights("bfloat16", 16, granularity="none"), Activations(), "cpu", "blocked"),
        (Weights("float16", 16, granularity="none"), Activations(), "cpu", "blocked"),
        (Weights("float8_e4m3", 8), Activations(), "cpu", "blocked"),
        (Weights(bits=16), Activations(), "cpu", "blocked"),
    ],
)
def test_without_native_kernels_backends_are_chosen_by_what_they_compute(
    spec: Weights, activations: Activations, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_linear, "library", lambda: None)
    assert linear_backend(spec, activations, (64, 64), torch.device(device)).backend == expected


def test_without_the_operator_the_reference_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_linear, "library", lambda: None)
    monkeypatch.setattr(onednn_int8, "onednn_activation_bits", lambda: None)
    assert linear_backend(Weights(), DYNAMIC, (64, 64), CPU) is ReferenceLinear
