"""Native products of float inputs on every instruction set of this CPU: against the dequantized weight and torch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.guarded import Guarded
from helpers.linears import DYNAMIC, FLOAT, draw
from vggtq.machine import native
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, fits
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.weights import Weights


@st.composite
def float_cases(draw: st.DrawFn) -> tuple[Weights, tuple[int, int, int], int]:
    kind = draw(st.sampled_from(["int", "int", "int", "float16", "bfloat16", "mxfp4", "nvfp4"]))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70)))
    if kind in BLOCKS:
        spec = Weights(kind, 4, granularity="group", group_size=BLOCKS[kind][0], scale_dtype=BLOCKS[kind][1])
    elif kind != "int":
        spec = Weights(kind, 16, granularity="none")
    else:
        bits, group = draw(st.integers(2, 8)), draw(st.sampled_from([None, 16, 32, 48, 64]))
        scales = draw(st.sampled_from(["float32", "float16", "progressive"]))
        progressive = scales == "progressive" and bits <= 4 and group is not None
        symmetric = progressive or draw(st.booleans())
        scales = scales if progressive or scales != "progressive" else "float32"
        spec = Weights("int", bits, symmetric, "group", group, scales)
    return spec, shape, draw(st.integers(0, 2**20))


BLOCKS = {"mxfp4": (32, "float8_e8m0"), "nvfp4": (16, "float8_e4m3")}


@given(float_cases())
@settings(max_examples=60, deadline=None)
def check_float_products(case: tuple[Weights, tuple[int, int, int], int]) -> None:
    spec, (tokens, columns, rows), seed = case
    assert fits(spec, FLOAT, (rows, columns))
    generator = torch.Generator().manual_seed(seed)
    packed = pack_weight(torch.randn(rows, columns, generator=generator), spec)
    bias, x = torch.randn(rows, generator=generator), torch.randn(tokens, columns, generator=generator)
    layer, weight = NativeLinear(packed, nn.Parameter(bias), FLOAT), packed.dequantize(torch.float64)
    with torch.no_grad():
        error = (layer(x) - (x.double() @ weight.t() + bias)).abs()
    assert (error <= 2e-6 * (x.abs().double() @ weight.abs().t() + bias.abs())).all()
    kept = layer.weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    for name, tensor in packed.tensors.items():
        assert kept[name].dtype == tensor.dtype
        assert torch.equal(kept[name].float(), tensor.float())


def test_float_inputs_meet_the_dequantized_weight(isa: str) -> None:
    check_float_products()


def test_broken_rows_of_floats_come_out_as_torchs(isa: str) -> None:
    packed, x = pack_weight(draw("gaussian", 40, 96), Weights(bits=4)), draw("gaussian", 30, 96)
    x[1, 5], x[2, 95], x[3, 0] = torch.nan, torch.inf, -torch.inf
    y, expected = NativeLinear(packed, None, FLOAT)(x), x @ packed.dequantize().t()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_rounded_once(isa: str, dtype: torch.dtype) -> None:
    group = Weights(bits=4, granularity="group", group_size=32)
    for spec, rows, inputs in ((Weights(), 64, DYNAMIC), (group, 33, DYNAMIC), (group, 33, FLOAT)):
        packed = pack_weight(draw("gaussian", rows, 77), spec)
        layer = NativeLinear(packed, nn.Parameter(torch.randn(rows)), inputs)
        x = draw("outliers", 19, 77, seed=2).to(dtype)
        assert torch.equal(layer(x), layer(x.float()).to(dtype))


def test_halves_come_out_as_torch_rounds_them(isa: str) -> None:
    """Subnormal numbers, ties, overflow and NaN, by way of the bias of a product with zeros."""
    values = torch.tensor(
        [0, 1e-8, 6e-8, 3e-5, 1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 1e30, torch.inf, torch.nan]
    )
    values = torch.cat([values, -values])
    layer = NativeLinear(pack_weight(torch.zeros(22, 8), Weights()), nn.Parameter(values), DYNAMIC)
    for dtype in (torch.float16, torch.bfloat16):
        out = layer(torch.ones(3, 8, dtype=dtype))
        torch.testing.assert_close(out, values.to(dtype).expand(3, -1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tokens", [1, 40, 150])
@pytest.mark.parametrize(
    "spec",
    [
        Weights(bits=4, granularity="group", group_size=32, scale_dtype="float16"),
        Weights(bits=5, symmetric=False, granularity="group", group_size=64),
        Weights(),
        Weights("mxfp4", bits=4, granularity="group", group_size=32, scale_dtype="float8_e8m0"),
        Weights("float16", bits=16, granularity="none"),
    ],
    ids=lambda spec: f"{spec.format}{spec.bits}",
)
def test_bfloat16_multiplies_both_sides_rounded(isa: str, spec: Weights, tokens: int) -> None:
    packed, bias = pack_weight(draw("gaussian", 70, 200), spec), torch.randn(70)
    layer, guarded = NativeLinear(packed, nn.Parameter(bias), FLOAT), Guarded()
    x = draw("gaussian", tokens, 200, seed=1)
    float_name, in_float32 = layer.backend, layer(x)
    layer.multiply_in("bfloat16")
    found = layer(guarded.copy(x))
    if not native.library().multiplies_bfloat16:
        assert layer.backend == float_name and torch.equal(found, in_float32)
        return
    assert layer.backend.startswith(f"native_{isa}_") and layer.backend.endswith("_bfloat16")
    weight = packed.dequantize(torch.float32).bfloat16().double()
    exact = x.bfloat16().double() @ weight.t() + bias
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(layer(x), found) and layer.backend.endswith("_bfloat16")
    broken = x.clone()
    broken[0, 3] = torch.nan
    assert layer(broken)[0].isnan().all() and torch.equal(layer(broken)[1:], found[1:])
    layer.multiply_in("float32")
    assert layer.backend == float_name and torch.equal(layer(x), in_float32)
