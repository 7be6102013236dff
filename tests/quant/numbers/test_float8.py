"""FP8 against a table of all 256 codes that is built from the format's definition, and what a scheme of it does."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.float8 import FLOAT8, quantize_tokens, round_inputs, to_float8
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import stored_bytes, stored_tensors

WEIGHTS = Weights("float8_e4m3")
DYNAMIC = Activations("dynamic", 8, "float8_e4m3")


def value_of(byte: int) -> float:
    """Sign, 4 exponent bits with bias 7, 3 mantissa bits; exponent 0 is subnormal; 0x7F and 0xFF are NaN."""
    sign, exponent, mantissa = -1 if byte & 0x80 else 1, (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


POSITIVE = [
    value_of(byte) for byte in range(0x7F)
]  # ascending; the parity of the index is the parity of the mantissa


def nearest(x: float) -> float:
    """Nearest of the table in exact arithmetic (differences of float32 values are exact in float64), halves to even."""
    size = min(abs(x), 448.0)
    index = min(range(len(POSITIVE)), key=lambda i: (abs(POSITIVE[i] - size), i % 2))
    return math.copysign(POSITIVE[index], x)


def test_torch_has_the_same_256_values() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float().tolist()
    assert all(v == value_of(i) or (math.isnan(v) and math.isnan(value_of(i))) for i, v in enumerate(values))


@settings(max_examples=300)
@given(st.floats(-500, 500, width=32) | st.floats(-0.0625, 0.0625, width=32))
def test_rounding_is_to_the_nearest_code_and_saturates(x: float) -> None:
    assert to_float8(torch.tensor([x])).float().item() == nearest(x)


def test_halves_go_to_even_and_nan_stays_nan() -> None:
    halves = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(POSITIVE)])
    assert to_float8(halves).float().tolist() == [nearest(h) for h in halves.tolist()]
    assert to_float8(torch.tensor([math.inf, -math.inf, 1e30])).float().tolist() == [448, -448, 448]
    assert to_float8(torch.tensor([math.nan])).float().isnan().all()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_a_weight_is_scaled_to_the_largest_code(granularity: str) -> None:
    rows = random(6, 40) * torch.logspace(-6, 6, 6)[:, None]
    rows[2] = 0
    packed = pack_weight(rows, Weights("float8_e4m3", granularity=granularity))
    peak = rows.abs().amax().view(1, 1) if granularity == "per_tensor" else rows.abs().amax(1, keepdim=True)
    scale = torch.where(peak > 0, peak / 448, 1.0)
    assert packed.scale is not None
    torch.testing.assert_close(packed.scale, scale, rtol=0, atol=0)
    back = packed.dequantize()
    # 3 mantissa bits: at most a sixteenth of the value, or half of the smallest code
    assert ((back - rows).abs() <= torch.maximum(rows.abs() / 16, 2.0**-10 * scale) * (1 + 1e-6)).all()
    assert (back[2] == 0).all()
    assert packed.stored_bytes == rows.numel() + 4 * packed.scale.numel()
    expected = 10 * math.log10(
        float(rows.double().square().sum() / (rows.double() - back.double()).square().sum())
    )
    assert packed.sqnr_db == pytest.approx(expected, rel=1e-6)


def test_tokens_have_their_own_scales_and_broken_ones_stay_apart() -> None:
    x = random(5, 16) * 1e4
    x[1], x[2, 3], x[3, 4] = 0, math.nan, math.inf
    codes, scale = quantize_tokens(x)
    assert (scale > 0)[[0, 1, 4]].all()
    assert codes[0].float().abs().max() == codes[4].float().abs().max() == 448
    assert (codes[1].float() == 0).all()
    assert not scale[2:4].isfinite().any()
    back = round_inputs(x, DYNAMIC)
    assert back[[0, 1, 4]].isfinite().all()
    assert back[2].isnan().all()


def test_the_reference_multiplies_rounded_codes() -> None:
    weight, bias, x = random(24, 48, seed=1), nn.Parameter(random(24, seed=2)), random(7, 48, seed=3)
    layer = ReferenceLinear(pack_weight(weight, WEIGHTS), bias, DYNAMIC)
    s, t = x.abs().amax(1, keepdim=True) / 448, weight.abs().amax(1, keepdim=True) / 448
    codes = torch.tensor([[nearest(v) for v in row] for row in (x / s).tolist()])
    weights = torch.tensor([[nearest(v) for v in row] for row in (weight / t).tolist()])
    exact = (codes.double() @ weights.double().t()) * s.double() * t.double().t() + bias.double()
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-5)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    error = (layer(x) - F.linear(x, weight, bias)).norm() / F.linear(x, weight).norm()
    assert 0.01 < error < 0.06  # two roundings of 2.6 % each, which independent terms average


def test_a_model_in_fp8_counts_a_byte_per_weight() -> None:
    model = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 16))
    scheme = Scheme("fp8", WEIGHTS, DYNAMIC, Layers(skip_first_last=False))
    quantization = quantize_(model, scheme)
    assert {layer.backend for layer in quantization.layers} == {"reference"}
    assert all(layer.simulated and layer.activation_bits == 8 for layer in quantization.layers)
    assert all(25 < layer.weight_sqnr_db < 40 for layer in quantization.layers)
    assert stored_bytes(model) == 32 * 48 + 48 * 16 + 2 * 4 * (48 + 16)
    assert stored_tensors(model)["0.codes"].dtype == FLOAT8


def test_the_scheme_is_called_fp8() -> None:
    scheme = validated(compose(["scheme=fp8"])).scheme
    assert scheme.label == "FP8 dynamic per-channel"
    assert (
        validated(compose(["scheme=fp8", "granularity=per_tensor"])).scheme.label == "FP8 dynamic per-tensor"
    )
    none = validated(compose(["scheme=fp8", "scheme.activations.mode=none"])).scheme
    assert none.label == "FP8 weights per-channel"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bits=4"], "bits=4"),
        (["granularity=group"], "granularity=group"),
        (["scheme.weights.scale_dtype=float16"], "scale_dtype=float16"),
        (["scheme.weights.symmetric=false"], "symmetric=false"),
        (["scheme.activations.format=int"], "activations.format=int with float8_e4m3 weights"),
        (["scheme.activations.bits=7"], "activations.bits=7"),
        (["scheme.activations.format=fp8"], "is not one of int, float8_e4m3"),
    ],
)
def test_what_fp8_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose(["scheme=fp8", *overrides]))


def test_float8_inputs_need_float8_weights() -> None:
    with pytest.raises(ConfigError, match="float8_e4m3 with int weights"):
        validated(compose(["scheme=int8_dynamic", "scheme.activations.format=float8_e4m3"]))
