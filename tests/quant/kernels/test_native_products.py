"""Native products of rounded inputs on every instruction set of this CPU: against integers and the reference."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.instruction_sets import built
from helpers.linears import DYNAMIC, INPUTS, draw
from vggtq.machine import native
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, fits, in_product
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.native.layout import codes_from_panels, codes_to_panels
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack
from vggtq.quant.scheme.weights import Weights


def packed_of(seed: int, spec: Weights, shape: tuple[int, int]) -> PackedWeight:
    """Any codes, those at both ends among them, with scales that are powers of two, or any integers."""
    bits, symmetric, group = spec.bits, spec.symmetric, spec.group_size
    generator = torch.Generator().manual_seed(seed)
    smallest, largest = int(symmetric), 2**bits - 1
    codes = torch.randint(smallest, largest + 1, shape, generator=generator, dtype=torch.uint8)
    codes[0], codes[-1] = largest, smallest
    groups = -(-shape[1] // group) if group else 1
    scale = 2.0 ** torch.randint(-1, 2, (shape[0], groups), generator=generator)
    zero, channels = None, None
    if spec.progressive:
        channels = scale[:, :1]
        scale = torch.randint(1, 16, (shape[0], groups), generator=generator, dtype=torch.uint8)
        scale[0] = 15
    if not symmetric:
        zero = torch.randint(0, largest + 1, scale.shape, generator=generator, dtype=torch.uint8)
        zero[0], zero[-1] = 0, largest
    return PackedWeight(pack(codes, bits), scale, zero, spec, shape[1], 0.0, 0.0, tensor_scale=channels)


def whole_inputs(layer: NativeLinear, tokens: int, seed: int) -> Tensor:
    """Whole numbers that the layer's rounding keeps: every scale is 1."""
    numbers, generator = layer.activations, torch.Generator().manual_seed(seed)
    bits = layer.activation_bits
    low, high = 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    if not numbers.symmetric:
        low, high = (0, 2**bits - 1) if numbers.mode == "static" else (-3, 2**bits - 5)
    x = torch.randint(low, high + 1, (tokens, layer.in_features), generator=generator).float()
    x[:, 0], x[:, -1] = high, low if layer.in_features > 1 else high
    x[0], x[0, -1] = high, low if layer.in_features > 1 and not numbers.symmetric else high
    if numbers.mode == "static":
        layer.set_input_range(InputRange.between(low, high, bits, numbers.symmetric))
    return x


@given(
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([None, 16, 32, 48, 64]),
    st.booleans(),
    st.sampled_from(sorted(INPUTS)),
    st.tuples(st.integers(1, 40), st.integers(2, 150), st.integers(1, 70)),
    st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def check_against_integers(
    bits: int,
    symmetric: bool,
    group: int | None,
    progressive: bool,
    inputs: str,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    tokens, columns, rows = shape
    possible = progressive and symmetric and bits <= 4 and group is not None
    scales = "progressive" if possible else "float32"
    spec = Weights("int", bits, symmetric, "group", group, scales)
    assert fits(spec, INPUTS[inputs], (rows, columns))
    packed = packed_of(seed, spec, (rows, columns))
    layer = NativeLinear(packed, None, INPUTS[inputs])
    x = whole_inputs(layer, tokens, seed)
    if not INPUTS[inputs].symmetric and columns == 1:
        return
    weight = in_product(packed, layer.product_bits).dequantize(torch.float64)
    exact, size = x.double() @ weight.t(), x.abs().double() @ weight.abs().t()
    with torch.no_grad():
        y = layer(x).double()
    if (
        layer._group and not spec.progressive
    ):  # sums of groups are float32: exact below 2^24 half steps, and rounded once a group beyond
        assert (
            (y - exact).abs() <= torch.where(size < 2**22, 0, 2e-6 * (size + 255 * weight.abs().sum(1)))
        ).all()
    else:
        assert torch.equal(y, exact.float().double())


def test_products_are_what_integers_give(isa: str) -> None:
    check_against_integers()


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_nothing_saturates(isa: str, bits: int, symmetric: bool) -> None:
    """All codes at one end and all inputs at the other, longer than any sum of 16 bits lasts."""
    for end in (1 if symmetric else 0, 2**bits - 1):
        codes = torch.full((3, 1024), end, dtype=torch.uint8)
        zero = None if symmetric else torch.full((3, 1), 2**bits - 1 - end, dtype=torch.uint8)
        spec = Weights(bits=bits, symmetric=symmetric)
        packed = PackedWeight(pack(codes, bits), torch.ones(3, 1), zero, spec, 1024, 0.0, 0.0)
        layer = NativeLinear(packed, None, DYNAMIC)
        for sign in (-1.0, 1.0):
            x = torch.full((13, 1024), sign * (2 ** (layer.activation_bits - 1) - 1))
            weight = in_product(packed, layer.product_bits).dequantize(torch.float64)
            assert torch.equal(layer(x).double(), x.double() @ weight.t())


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(
    "spec",
    [
        Weights(),
        Weights(symmetric=False, granularity="per_tensor"),
        Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16"),
        Weights(bits=3, symmetric=False, granularity="group", group_size=32),
        Weights(symmetric=False, granularity="group", group_size=16),
        Weights(bits=4, granularity="group", group_size=64, scale_dtype="progressive"),
    ],
    ids=["w8", "w8 asymmetric", "w4 g64", "w3 g32 asymmetric", "w8 g16 asymmetric", "w4 g64 progressive"],
)
def test_the_result_is_the_references(isa: str, spec: Weights, inputs: str) -> None:
    weight, bias, x = draw("gaussian", 50, 200, seed=1), torch.randn(50), draw("outliers", 37, 200, seed=2)
    packed, numbers = pack_weight(weight, spec), INPUTS[inputs]
    layer = NativeLinear(packed, nn.Parameter(bias), numbers)
    multiplied = in_product(packed, layer.product_bits)
    reference = ReferenceLinear(multiplied, nn.Parameter(bias), replace(numbers, bits=layer.activation_bits))
    if numbers.mode == "static":
        for each, bits in ((layer, numbers.bits), (reference, layer.activation_bits)):
            known = InputRange.between(-4, 4, numbers.bits, numbers.symmetric)
            each.set_input_range(known.with_bits(bits))
    with torch.no_grad():
        difference = (layer(x) - reference(x)).abs()
    # Where a quotient is a half within float32's precision, codes may differ by one.
    step = x.abs().amax() / 2 ** (layer.activation_bits - 1) * 2
    assert (difference > 2e-6 * (x.abs() @ weight.abs().t() + bias.abs())).float().mean() < 0.05
    assert (difference <= step * weight.abs().amax() * 2).all()


@pytest.mark.parametrize("inputs", INPUTS)
def test_broken_rows_stay_alone_and_zeros_give_the_bias(isa: str, inputs: str) -> None:
    numbers, bias = INPUTS[inputs], torch.arange(40.0)
    for spec in (Weights(), Weights(bits=4, granularity="group", group_size=32)):
        layer = NativeLinear(pack_weight(draw("gaussian", 40, 96), spec), nn.Parameter(bias), numbers)
        if numbers.mode == "static":
            layer.set_input_range(InputRange.between(-3, 3, numbers.bits, numbers.symmetric))
        x = draw("gaussian", 30, 96)
        x[0], x[1, 5], x[2, 95], x[3, 0] = 0, torch.nan, torch.inf, -torch.inf
        y = layer(x)
        shared = numbers.scale_granularity == "per_tensor" and numbers.mode == "dynamic"
        assert y[1:4].isnan().all()
        assert shared or y[4:].isfinite().all()
        if not shared:  # where groups meet zero points, two sums cancel
            cancels = layer._group and not numbers.symmetric
            torch.testing.assert_close(y[0], bias, rtol=0, atol=1e-4 if cancels else 0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_codes_come_back(isa: str, bits: int, symmetric: bool) -> None:
    for shape, granularity, group in (
        ((33, 65), "per_channel", None),
        ((7, 96), "per_tensor", None),
        ((70, 100), "group", 32),
    ):
        spec = Weights(
            bits=bits, symmetric=symmetric, granularity=granularity, group_size=group, scale_dtype="float16"
        )
        if not fits(spec, DYNAMIC, shape):
            continue
        packed = pack_weight(draw("gaussian", *shape), spec)
        layer = NativeLinear(packed, None, DYNAMIC)
        kept, x = layer.weight_tensors(), draw("outliers", 3, shape[1])
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))
        assert torch.equal(layer.state_dict()["codes"], packed.codes)
        assert kept.keys() == packed.tensors.keys()
        assert all(torch.equal(kept[k], t) and kept[k].dtype == t.dtype for k, t in packed.tensors.items())


@given(st.integers(2, 8), st.sampled_from([(8, 16), (16, 32), (8, 24)]), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None)
def test_layouts_are_undone(bits: int, vectors: tuple[int, int], panels: int, blocks: int) -> None:
    lanes, panel = vectors
    shape = (panels * panel, blocks * 32)
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    packed = codes_to_panels(codes, bits, lanes, panel)
    assert packed.numel() == codes.numel() * bits // 8
    assert torch.equal(codes_from_panels(packed, bits, lanes, panel, shape), codes)


@built
def test_four_bits_stay_four_bits_in_memory() -> None:
    spec = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
    packed = pack_weight(draw("gaussian", 256, 1024), spec)
    layer = NativeLinear(packed, None, DYNAMIC)
    assert layer.resident_bytes() <= 1.05 * packed.stored_bytes
    library = native.library()
    assert library is not None and layer.backend == f"native_{library.integers}_w4a8"


@pytest.mark.parametrize("group", [None, 64])
def test_more_tokens_and_outputs_than_the_cache_holds(isa: str, group: int | None) -> None:
    tokens, rows, columns = 550, 170, 8192  # more than one block and chunk of a cache of 2 MB
    spec = Weights(bits=4, granularity="group" if group else "per_channel", group_size=group)
    packed = packed_of(3, spec, (rows, columns))
    layer = NativeLinear(packed, None, DYNAMIC)
    x = whole_inputs(layer, tokens, 3)
    exact = x @ in_product(packed, layer.product_bits).dequantize(torch.float32).t()
    torch.testing.assert_close(layer(x), exact, rtol=1e-5, atol=0.25 if group else 0)
