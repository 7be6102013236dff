"""Triton's products against exact sums in float64, and the packed weights against `packed.py`, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helpers.triton_device import BFLOAT16_STEP, DEVICE
from vggtq.quant.kernels.cuda.rounded_rows import LARGEST_ROW
from vggtq.quant.kernels.cuda.triton_matmul import scaled_matmul
from vggtq.quant.kernels.cuda.triton_weights import dequantize, few_rows_linear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.float8 import to_float8
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.weights import Weights

# Rows, outputs and inputs that fill tiles, miss them by one, and are smaller than any.
SHAPES = [(1, 1, 1), (17, 9, 33), (64, 64, 64), (65, 130, 127), (200, 96, 192)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def close(out: Tensor, exact: Tensor, magnitude: Tensor) -> bool:
    """Three roundings of float32, relative to the largest intermediate; one more for a 16-bit result."""
    step = {torch.float32: 0.0, torch.bfloat16: BFLOAT16_STEP, torch.float16: 2.0**-11}[out.dtype]
    return bool(((out.double() - exact).abs() <= 4e-7 * magnitude + step * exact.abs()).all())


@pytest.mark.parametrize("per_tensor", [True, False], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("zero_points", [True, False], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(("rows", "outputs", "inner"), SHAPES)
def test_int8_products_are_exact(
    rows: int, outputs: int, inner: int, zero_points: bool, per_tensor: bool
) -> None:
    codes = integers(-127, 127, rows, inner).to(torch.int8)
    weight = integers(-128, 127, outputs, inner, seed=1).to(torch.int8)
    scales = 1 if per_tensor else outputs
    scale, weight_scale = normal(rows, 1, seed=2).exp(), normal(scales, 1, seed=3).exp()
    zero = integers(0, 255, scales, 1, seed=4).to(torch.uint8) if zero_points else None
    bias = normal(outputs, seed=5)
    sums = codes.sum(1, dtype=torch.int32) if zero_points else None
    shifted = weight.double() - (zero.double() - 128 if zero is not None else 0)
    exact = codes.double() @ shifted.t() * scale.double() * weight_scale.double().t()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        safe = (exact / 1e4).abs().amax().clamp_min(1)  # float16 ends at 65504
        out = scaled_matmul(codes, scale / safe.float(), sums, weight, weight_scale, zero, bias, dtype)
        y = exact / safe.float().double() + bias.double()
        assert close(out, y, y.abs() + bias.abs().double() + exact.abs() / safe)


def test_the_largest_sums_stay_within_32_bits() -> None:
    codes = torch.full((2, LARGEST_ROW), 127, dtype=torch.int8, device=DEVICE)
    codes[1] = -127
    weight = torch.full((1, LARGEST_ROW), 127, dtype=torch.int8, device=DEVICE)
    one = torch.ones(2, 1, device=DEVICE)
    zero = torch.zeros(1, 1, dtype=torch.uint8, device=DEVICE)
    sums = codes.sum(1, dtype=torch.int32)
    out = scaled_matmul(codes, one, sums, weight, one[:1], zero, None, torch.float32)
    assert out.flatten().tolist() == [127 * 255 * LARGEST_ROW, -127 * 255 * LARGEST_ROW]


@pytest.mark.parametrize(("rows", "outputs", "inner"), SHAPES)
def test_float8_products(rows: int, outputs: int, inner: int) -> None:
    codes, weight = to_float8(normal(rows, inner) * 100), to_float8(normal(outputs, inner, seed=1) * 100)
    scale, weight_scale, bias = (
        normal(rows, 1).exp(),
        normal(outputs, 1, seed=3).exp(),
        normal(outputs, seed=4),
    )
    factors = scale.double() * weight_scale.double().t()
    exact = codes.double() @ weight.double().t() * factors + bias.double()
    size = codes.double().abs() @ weight.double().abs().t() * factors + bias.double().abs()
    out = scaled_matmul(codes, scale, None, weight, weight_scale, None, bias, torch.float32)
    # The tensor cores' fast accumulation keeps about 14 bits of each partial sum; the interpreter sums in float32.
    bound = 2.0**-10 if DEVICE.type == "cuda" else 1e-6
    assert ((out.double() - exact).abs() <= bound * size).all()


SPECS = [
    Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16"),
    Weights(bits=4, granularity="group", group_size=128),
    Weights(bits=4, granularity="group", group_size=24, symmetric=False, scale_dtype="float16"),
    Weights(bits=4),
    Weights(bits=8),
    Weights(bits=8, symmetric=False),
    Weights(bits=8, granularity="per_tensor"),
    Weights(bits=8, granularity="group", group_size=None),
    Weights(bits=2, granularity="group", group_size=32, symmetric=False),
    Weights(bits=3, granularity="group", group_size=96),
    *(Weights(bits=bits) for bits in (5, 6, 7)),
]


def arguments(packed: PackedWeight) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return packed.codes, packed.scale, packed.zero_point


def group_of(packed: PackedWeight) -> int:
    group = group_columns(packed.columns, packed.spec)
    return 0 if group == packed.columns else group


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (40, 300), (33, 256)], ids=str)
def test_dequantized_weights_are_those_of_the_packed_weight(spec: Weights, shape: tuple[int, int]) -> None:
    packed = pack_weight(normal(*shape), spec)
    ours = dequantize(*arguments(packed), spec.bits, shape[1], group_of(packed), torch.float32)
    assert torch.equal(ours, packed.dequantize())
    half = dequantize(*arguments(packed), spec.bits, shape[1], group_of(packed), torch.bfloat16)
    assert ((half.float() - packed.dequantize()).abs() <= BFLOAT16_STEP * packed.dequantize().abs()).all()


@settings(max_examples=25)
@given(
    st.integers(2, 8),
    st.integers(1, 40),
    st.integers(1, 150),
    st.integers(2, 70),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_bits_shape_and_group(
    bits: int, outputs: int, columns: int, group: int, symmetric: bool, seed: int
) -> None:
    packed = pack_weight(
        normal(outputs, columns, seed=seed), Weights("int", bits, symmetric, "group", group, "float32")
    )
    ours = dequantize(*arguments(packed), bits, columns, group_of(packed), torch.float32)
    assert torch.equal(ours, packed.dequantize())


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize(
    ("rows", "outputs", "inner"), [(1, 5, 7), (16, 33, 300), (64, 64, 256), (70, 20, 130)]
)
def test_few_rows(spec: Weights, rows: int, outputs: int, inner: int) -> None:
    packed = pack_weight(normal(outputs, inner), spec)
    x, bias = normal(rows, inner, seed=1), normal(outputs, seed=2)
    dtypes = (torch.float32, torch.float16) if rows < 64 else (torch.float32,)
    for dtype in dtypes:
        y = few_rows_linear(x.to(dtype), *arguments(packed), bias, spec.bits, group_of(packed))
        assert y.dtype == dtype
        weight = packed.dequantize(dtype).double()
        exact = F.linear(x.to(dtype).double(), weight, bias.double())
        size = F.linear(x.abs().double(), weight.abs(), bias.abs().double())
        assert (
            (y.double() - exact).abs()
            <= 1e-6 * size + (2.0**-11 if dtype == torch.float16 else 0) * exact.abs()
        ).all()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter has no products of bfloat16")
def test_few_rows_in_bfloat16() -> None:
    packed = pack_weight(normal(128, 256), SPECS[0])
    x = normal(7, 256, seed=1).bfloat16()
    y = few_rows_linear(x, *arguments(packed), None, 4, 64)
    exact = F.linear(x.double(), packed.dequantize(torch.bfloat16).double())
    assert ((y.double() - exact).abs() <= BFLOAT16_STEP * exact.abs() + 1e-4).all()


def test_no_rows() -> None:
    packed = pack_weight(normal(6, 8), Weights(bits=4))
    assert few_rows_linear(normal(0, 8), *arguments(packed), None, 4, 0).shape == (0, 6)
    codes = torch.zeros(0, 8, dtype=torch.int8, device=DEVICE)
    weight, one = torch.zeros(6, 8, dtype=torch.int8, device=DEVICE), torch.ones(1, 1, device=DEVICE)
    out = scaled_matmul(codes, one[:0], None, weight, one, None, None, torch.bfloat16)
    assert (out.shape, out.dtype) == ((0, 6), torch.bfloat16)
