"""Rounding against the definition in float64, and its bounds for every kind of weight that hypothesis finds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggtq.errors import QuantizationError
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.weights import Weights


def expected(rows: np.ndarray, spec: Weights) -> tuple[np.ndarray, np.ndarray]:
    """ŵ and the scale of every weight, one group at a time, in float64: Jacob et al. 2018, eq. 1 to 3."""
    restored, scales = np.empty_like(rows, dtype=np.float64), np.empty_like(rows, dtype=np.float64)
    rows = rows.astype(np.float64)
    size = spec.group_size if spec.granularity == "group" and spec.group_size else rows.shape[1]
    for r in range(rows.shape[0]):
        for start in range(0, rows.shape[1], size):
            part = slice(start, start + size)
            source = rows if spec.granularity == "per_tensor" else rows[r, part]
            low, high = min(source.min(), 0.0), max(source.max(), 0.0)
            if spec.symmetric:
                limit = 2 ** (spec.bits - 1) - 1
                scale = np.float32(max(-low, high) / limit) or 1.0
                restored[r, part] = np.clip(np.round(rows[r, part] / scale), -limit, limit) * scale
            else:
                limit = 2**spec.bits - 1
                scale = np.float32((high - low) / limit) or 1.0
                zero = np.clip(np.round(-low / scale), 0, limit)
                restored[r, part] = (np.clip(np.round(rows[r, part] / scale) + zero, 0, limit) - zero) * scale
            scales[r, part] = scale
    return restored, scales


def specs() -> st.SearchStrategy[Weights]:
    grouped = st.tuples(st.just("group"), st.sampled_from([2, 3, 8, 32, None]))
    whole = st.tuples(st.sampled_from(["per_tensor", "per_channel"]), st.none())
    return st.builds(
        lambda bits, symmetric, kind: Weights("int", bits, symmetric, kind[0], kind[1]),
        st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]),
        st.booleans(),
        grouped | whole,
    )


def weights() -> st.SearchStrategy[np.ndarray]:
    value = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1e-30, -1e30, 3e38, 5.0])

    def matrix(shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
        count = shape[0] * shape[1]
        values = st.lists(value, min_size=count, max_size=count)
        return values.map(lambda flat: np.array(flat, dtype=np.float32).reshape(shape))

    return st.tuples(st.integers(1, 4), st.integers(1, 19)).flatmap(matrix)


@settings(max_examples=300)
@given(rows=weights(), spec=specs())
def test_every_weight_is_within_half_a_step(rows: np.ndarray, spec: Weights) -> None:
    packed = pack_weight(torch.from_numpy(rows), spec)
    restored = packed.dequantize().numpy().astype(np.float64)
    _, scale = expected(rows, spec)
    assert np.isfinite(restored).all()
    # Half a step, and for asymmetric numbers another half at the ends, where the zero point was rounded.
    steps = 0.5 if spec.symmetric else 1.0
    rounding = 1e-6 * 2**spec.bits * scale  # float32 division and product
    assert (np.abs(restored - rows) <= steps * scale + rounding + 1e-30).all()


@settings(max_examples=200)
@given(rows=weights(), spec=specs())
def test_zero_is_exact(rows: np.ndarray, spec: Weights) -> None:
    rows[0, 0] = 0.0
    assert pack_weight(torch.from_numpy(rows), spec).dequantize()[0, 0] == 0.0


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "group of 32", "group of 48"])
def test_gaussian_weights_match_the_definition(bits: int, symmetric: bool, granularity: str) -> None:
    group = int(granularity.split()[-1]) if "group" in granularity else None
    spec = Weights("int", bits, symmetric, granularity.split()[0], group)
    rows = torch.randn(7, 100, generator=torch.Generator().manual_seed(bits)) + 0.3
    restored, scale = expected(rows.numpy(), spec)
    # A quotient that falls on the border between two codes may round either way in float32.
    difference = np.abs(pack_weight(rows, spec).dequantize().double().numpy() - restored)
    assert (difference > 1e-4 * scale + 1e-6).mean() < 0.01
    assert (difference <= 1.001 * scale + 1e-6).all()


def test_asymmetric_codes_above_127_do_not_wrap() -> None:
    rows = torch.linspace(-1, 3, 256).repeat(2, 1)
    packed = pack_weight(rows, Weights(symmetric=False))
    assert packed.integer_codes().min() == 0
    assert packed.integer_codes().max() == 255
    assert (packed.dequantize() - rows).abs().max() < 4 / 255


def test_groups_run_along_the_inputs_of_one_row() -> None:
    rows = torch.tensor([[1.0, 1.0, 100.0, 100.0, 1.0], [0.01, 0.01, 0.01, 0.01, 7.0]])
    packed = pack_weight(rows, Weights(bits=4, granularity="group", group_size=2))
    assert packed.scale is not None
    torch.testing.assert_close(packed.scale * 7, torch.tensor([[1.0, 100.0, 1.0], [0.01, 0.01, 7.0]]))
    torch.testing.assert_close(packed.dequantize(), rows)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(
    "rows",
    [torch.zeros(2, 8), torch.full((2, 8), 3.25), torch.full((2, 8), -0.125), torch.ones(1, 1)],
    ids=["all-zero", "constant", "constant negative", "single weight"],
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_and_constants_are_exact(rows: torch.Tensor, symmetric: bool, bits: int) -> None:
    packed = pack_weight(rows, Weights(bits=bits, symmetric=symmetric, granularity="group", group_size=4))
    torch.testing.assert_close(packed.dequantize(), rows, rtol=1e-6, atol=0)


def test_one_huge_value_costs_only_its_own_group() -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    rows[1, 3] = 1e38
    packed = pack_weight(rows, Weights(bits=4, granularity="group", group_size=32))
    others = torch.ones(4, 64, dtype=torch.bool)
    others[1, :32] = False
    assert torch.isfinite(packed.dequantize()).all()
    assert (packed.dequantize() - rows)[others].abs().max() < 0.3


@pytest.mark.parametrize("factor", [1e6, 1e-7], ids=["overflow", "underflow"])
def test_float16_scales_fall_back_to_float32_and_say_so(factor: float) -> None:
    rows = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * factor
    spec = Weights(bits=4, granularity="group", group_size=32, scale_dtype="float16")
    packed = pack_weight(rows, spec)
    assert packed.scale is not None
    assert packed.scale.dtype == torch.float32
    assert "float32" in packed.notes[0]
    assert packed.sqnr_db > 15
    assert pack_weight(rows / factor, spec).scale.dtype == torch.float16  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "spec", [Weights(), Weights("float16", 16, granularity="none")], ids=["int8", "fp16"]
)
def test_non_finite_weights_are_refused(bad: float, spec: Weights) -> None:
    rows = torch.ones(3, 5)
    rows[2, 1] = bad
    with pytest.raises(QuantizationError, match="1 of 15 weights are NaN or infinite"):
        pack_weight(rows, spec)


def test_weights_beyond_float16_are_refused() -> None:
    with pytest.raises(QuantizationError, match=r"1e\+05.*float16.*scheme=bf16"):
        pack_weight(torch.tensor([[1.0, 1e5]]), Weights("float16", 16, granularity="none"))


def test_sqnr_is_the_ratio_of_powers() -> None:
    rows = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    packed = pack_weight(rows, Weights(bits=4))
    noise = (packed.dequantize() - rows).double().square().sum()
    assert packed.sqnr_db == pytest.approx(
        float(10 * torch.log10(rows.double().square().sum() / noise)), abs=1e-6
    )


def test_bfloat16_weights_are_rounded_from_their_own_values() -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(pack_weight(rows, Weights()).codes, pack_weight(rows.float(), Weights()).codes)
