"""fbgemm's int8 product against exact arithmetic on its own codes, and the rules that choose among CPU kernels."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from test_linear import DYNAMIC, KINDS, draw
from vggtq.quant import backends, cpu_rules, fbgemm_int8
from vggtq.quant.backends import linear_backend
from vggtq.quant.blocked_wide import WideLinear
from vggtq.quant.cpu_linear import FbgemmHalfLinear, OneDnnInt8Linear
from vggtq.quant.cpu_rules import SMALL_WEIGHT, half_in_blocks, int8_by_fbgemm
from vggtq.quant.fbgemm_int8 import FbgemmInt8Linear, fbgemm_activation_bits
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.quantize import quantize_
from vggtq.quant.scheme import Activations, Scheme, Weights

CPU = torch.device("cpu")
HALF = Weights("float16", 16, granularity="none")
pytestmark = pytest.mark.skipif(
    fbgemm_activation_bits() is None, reason="this torch has no fbgemm int8 product"
)


def exact_product(layer: FbgemmInt8Linear, packed: PackedWeight, x: Tensor) -> tuple[Tensor, Tensor]:
    """Σ (w codes - zero) · round(x / max|row| · largest) in int64, scales in float64, and what one step of each code weighs."""
    largest = 2 ** (layer.activation_bits - 1) - 1
    peak = x.abs().amax(1, keepdim=True)
    weight = packed.integer_codes().to(torch.int64)
    if packed.zero_point is not None:
        weight = weight - packed.zero_point.to(torch.int64)
    assert packed.scale is not None
    scale = packed.scale.double().expand(weight.shape[0], 1).t() * peak.double() / largest
    codes = x.double() / peak.double() * largest
    ties = (codes - codes.floor() - 0.5).abs() < 1e-4  # float32 may round these either way
    slack = ties.double() @ weight.abs().double().t() * scale
    return torch.round(codes).to(torch.int64) @ weight.t() * scale, slack


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("inputs", KINDS)
def test_fbgemm_is_exact_on_its_own_codes(
    symmetric: bool, granularity: str, weights: str, inputs: str
) -> None:
    packed = pack_weight(
        draw(weights, 48, 512, seed=1), Weights(symmetric=symmetric, granularity=granularity)
    )
    layer = FbgemmInt8Linear(packed, None, DYNAMIC)
    x = draw(inputs, 70, 512, seed=2)
    expected, slack = exact_product(layer, packed, x)
    bound = slack + 1e-6 * (x.abs().sum(1, keepdim=True) * packed.dequantize().abs().amax())
    assert ((layer(x) - expected).abs() <= bound).all()


def test_saturating_instructions_are_detected_and_avoided() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_fbgemm as t\n"
        "assert t.fbgemm_activation_bits() == 7\n"
        "for weights in t.KINDS:\n"
        "    for inputs in t.KINDS:\n"
        "        t.test_fbgemm_is_exact_on_its_own_codes(False, 'per_channel', weights, inputs)\n"
        "        t.test_fbgemm_is_exact_on_its_own_codes(True, 'per_channel', weights, inputs)\n"
        "assert t.linear_backend(t.Weights(), t.DYNAMIC, (4096, 4096), t.CPU) is t.FbgemmInt8Linear\n"
        "layer = t.FbgemmInt8Linear(t.pack_weight(t.draw('gaussian', 8, 16), t.Weights()), None, t.DYNAMIC)\n"
        "assert layer.activation_bits == 7 and '7 bits' in layer.notes[0] and 'fbgemm' in layer.rule\n"
    )
    env = os.environ | {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_codes_come_back_and_copies_compute_the_same(symmetric: bool) -> None:
    packed = pack_weight(draw("gaussian", 24, 40), Weights(symmetric=symmetric))
    layer = FbgemmInt8Linear(packed, nn.Parameter(torch.randn(24)), DYNAMIC)
    kept = layer.weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in packed.tensors.items())
    x = draw("outliers", 2, 9, 40)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    # 40 inputs lie in one block of 512
    zeros = 0 if symmetric else 24
    assert layer.resident_bytes() == 24 * (512 + 12) + 4 * 24 + 4 * 24 + zeros


def test_a_row_of_zeros_gives_the_bias_and_a_nan_or_inf_stays_in_its_row() -> None:
    layer = FbgemmInt8Linear(
        pack_weight(draw("gaussian", 8, 16), Weights()), nn.Parameter(torch.arange(8.0)), DYNAMIC
    )
    x = draw("gaussian", 4, 16)
    x[0] = 0
    x[1, 2], x[2, 3] = torch.nan, torch.inf
    out = layer(x)
    assert torch.equal(out[0], torch.arange(8.0))
    assert not torch.isfinite(out[1:3]).any()
    assert torch.isfinite(out[3]).all()


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_int8_products_are_chosen_by_shape_and_cpu(
    saturates: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_rules, "has_amx", lambda: amx)
    small, large = (256, SMALL_WEIGHT // 256), (4096, 1024)
    assert int8_by_fbgemm(Weights(), small, saturates) is not None
    assert (int8_by_fbgemm(Weights(), large, saturates) is not None) == saturates
    assert (int8_by_fbgemm(Weights(symmetric=False), large, saturates) is not None) == (saturates or not amx)


def test_layers_with_another_choice_name_their_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbgemm_int8, "fbgemm_activation_bits", lambda: 8)
    net = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8))
    result = quantize_(net, Scheme("w8a8", Weights(), activations=DYNAMIC), first_last=())
    assert {layer.backend for layer in result.layers} == {"fbgemm_int8"}
    assert all("fbgemm instead of oneDNN" in layer.rule for layer in result.layers)
    assert linear_backend(Weights(), DYNAMIC, (4096, 1024), CPU) is OneDnnInt8Linear


@pytest.mark.parametrize(
    ("avx512", "amx", "shape", "blocked"),
    [
        (True, False, (64, 64), False),
        (True, True, (64, 64), True),
        (True, True, (4096, 1024), True),
        (False, False, (64, 64), True),
        (False, False, (4096, 1024), False),
    ],
)
def test_half_weights_are_widened_where_that_is_faster(
    avx512: bool, amx: bool, shape: tuple[int, int], blocked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_rules, "has_avx512", lambda: avx512)
    monkeypatch.setattr(cpu_rules, "has_amx", lambda: amx)
    expected = WideLinear if blocked else FbgemmHalfLinear
    assert backends.linear_backend(HALF, Activations(), shape, CPU) is expected
    assert (half_in_blocks(shape) is not None) == blocked
    if blocked and shape == (64, 64):
        layer = WideLinear(pack_weight(torch.randn(*shape), HALF), None, Activations())
        assert "instead of fbgemm" in layer.rule
