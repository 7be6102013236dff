"""Ranges of inputs and what is rounded by them: observers against NumPy and against searches on the values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from helpers.linears import static
from vggtq.errors import QuantizationError
from vggtq.quant.kernels.cpu.onednn_int8 import OneDnnInt8Linear, onednn_activation_bits
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.methods import ranges
from vggtq.quant.methods.ranges import BINS, RangeObserver, observed_range
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_codes import fake_quantize, static_codes
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


def observed(x: Tensor, activations: Activations) -> InputRange:
    observer = RangeObserver()
    for part in x.split(100):
        observer.update(part)
    return observed_range(observer, activations)


def draw(kind: str, count: int = 20_000) -> Tensor:
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    return {"gaussian": x, "gelu": nn.functional.gelu(2 * x), "heavy": x**5, "positive": x.abs() + 1}[kind]


KINDS = ("gaussian", "gelu", "heavy", "positive")

finite = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda x: x if abs(x) > 2.0**-60 else 0.0)


@given(x=arrays.arrays(np.float32, st.integers(1, 60), elements=finite), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_a_histogram_knows_neither_order_nor_batches(x: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(x), 3))
    whole, streamed = RangeObserver(), RangeObserver()
    whole.update(torch.from_numpy(x))
    for part in np.split(rng.permutation(x), cuts):
        streamed.update(torch.from_numpy(part))
    assert whole.counts is not None and streamed.counts is not None
    assert torch.equal(whole.counts, streamed.counts) and whole.exponent == streamed.exponent
    assert (whole.low, whole.high) == (streamed.low, streamed.high) == (min(x.min(), 0), max(x.max(), 0))
    bins = np.floor(x.astype(np.float64) / whole.width).astype(int) + BINS // 2
    assert np.array_equal(np.bincount(bins, minlength=BINS), whole.counts.numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_least_squares_finds_what_a_fine_search_on_the_values_finds(
    kind: str, bits: int, symmetric: bool
) -> None:
    x = draw(kind)

    def error(numbers: InputRange) -> float:
        return float((numbers.round_trip(x.double()) - x.double()).square().sum())

    best = error(observed(x, static(bits=bits, symmetric=symmetric, observer="mse")))
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    shrinks = torch.linspace(0.01, 1, 60).tolist()
    if symmetric:
        peak = max(-low, high)
        every = [InputRange.between(-peak * s, peak * s, bits, True) for s in shrinks]
    else:
        lows = shrinks if low < 0 else [1.0]
        every = [InputRange.between(low * s, high * t, bits, False) for s in lows[::3] for t in shrinks]
    assert best <= 1.1 * min(map(error, every))
    minmax = error(observed(x, static(bits=bits, symmetric=symmetric)))
    assert best <= minmax * 1.001


def test_asymmetric_numbers_lose_less_behind_gelu() -> None:
    x = draw("gelu").double()
    errors = [
        float((observed(x, static(symmetric=symmetric)).round_trip(x) - x).square().mean())
        for symmetric in (False, True)
    ]
    assert errors[0] < 0.4 * errors[1], "half of the symmetric codes are never used"


@given(
    ends=st.tuples(finite, finite).filter(lambda e: e[0] == 0 == e[1] or max(map(abs, e)) > 1e-30),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
@settings(max_examples=200)
def test_what_lies_within_a_range_is_off_by_a_step_and_zero_by_nothing(
    ends: tuple[float, float], bits: int, symmetric: bool
) -> None:
    low, high = sorted(ends)
    numbers = InputRange.between(low, high, bits, symmetric)
    numbers.check()
    x = torch.linspace(min(low, 0), max(high, 0), 101, dtype=torch.float64)
    scale = float(numbers.scale)
    assert ((numbers.round_trip(x) - x).abs() <= scale * (0.5 if symmetric else 1.0) * (1 + 1e-5)).all()
    assert numbers.round_trip(torch.zeros(1)) == 0
    codes, kept, zero = static_codes(x.float(), numbers)
    assert numbers.smallest <= int(codes.min()) and int(codes.max()) <= numbers.largest
    assert ((codes.double() - zero) * kept - numbers.round_trip(x)).abs().max() <= scale * 1.001
    narrow = numbers.with_bits(bits - 1) if bits > 2 else numbers
    reach = max(high, 0) - min(low, 0)
    assert (
        abs((narrow.ends[1] - narrow.ends[0]) - (numbers.ends[1] - numbers.ends[0])) <= 1e-5 * reach
        or reach == 0
    )


def test_what_is_beyond_a_range_saturates_and_what_is_broken_shows() -> None:
    numbers = InputRange.between(-1, 3, 8, False)
    x = torch.tensor([-100.0, 100.0, 0.0, 1e15])
    codes, scale, _ = static_codes(x, numbers)
    assert codes[:2].tolist() == [0, 255] and scale > 0
    for bad in (torch.nan, torch.inf):
        assert np.isnan(static_codes(torch.tensor([1.0, bad]), numbers)[1])
        assert numbers.round_trip(torch.tensor([1.0, bad])).isnan().tolist() == [False, True]
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        RangeObserver().update(torch.tensor([torch.nan]))


MODES = {
    "per token asymmetric": Activations("dynamic", symmetric=False),
    "per tensor": Activations("dynamic", granularity="per_tensor"),
    "per tensor asymmetric": Activations("dynamic", granularity="per_tensor", symmetric=False),
}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", MODES)
def test_simulated_dynamic_numbers_are_off_by_half_a_step(name: str, bits: int) -> None:
    numbers = Activations(
        "dynamic", bits, granularity=MODES[name].granularity, symmetric=MODES[name].symmetric
    )
    x = draw("gelu").view(100, 200) * torch.logspace(-2, 2, 100)[:, None]
    rows = x if numbers.scale_granularity == "per_token" else x.view(1, -1)
    low, high = rows.amin(1).clamp_max(0), rows.amax(1)
    span = 2 * torch.maximum(-low, high) if numbers.symmetric else high - low
    step = span / (2**bits - 2)
    worst = (fake_quantize(x, numbers) - x).view(rows.shape).abs().amax(1)
    assert (worst <= step * 0.5001).all()
    assert (worst >= step * 0.4).any()


def test_a_clipped_range_saturates_and_rounds_the_rest_more_finely() -> None:
    x = draw("gaussian").view(100, 200)
    numbers = Activations("dynamic", 4, clip=0.8)
    scale = 0.8 * x.abs().amax(1, keepdim=True).double() / 7
    expected = (x.double() / scale).round().clamp(-7, 7) * scale
    assert torch.allclose(fake_quantize(x, numbers).double(), expected, atol=1e-6)
    errors = [(fake_quantize(x, Activations("dynamic", 4, clip=c)) - x).square().mean() for c in (1, 0.8)]
    assert errors[1] < 0.9 * errors[0], "of normal values in rows of 200"


@pytest.mark.parametrize("backend", [ReferenceLinear, OneDnnInt8Linear])
def test_half_precision_inputs_and_empty_ones_pass(backend: type) -> None:
    if backend is OneDnnInt8Linear and onednn_activation_bits() is None:
        pytest.skip("this torch has no oneDNN int8 product")
    for activations in (static(), *MODES.values()):
        layer = backend(pack_weight(torch.randn(8, 16), Weights()), None, activations)
        if activations.mode == "static":
            layer.set_input_range(InputRange.between(-1, 1, 8, True))
        for dtype in (torch.float32, torch.bfloat16):
            for shape in ((0, 16), (2, 3, 16)):
                out = layer(torch.ones(shape, dtype=dtype))
                assert out.dtype == dtype and out.shape == (*shape[:-1], 8)


def test_an_observer_keeps_one_histogram_however_much_it_sees() -> None:
    observer = RangeObserver()
    for _ in range(5):
        observer.update(torch.randn(3 * ranges.PIECE // 2))
    assert observer.counts is not None
    assert (observer.counts.shape, observer.values) == ((BINS,), 5 * (3 * ranges.PIECE // 2))
    assert int(observer.counts.sum()) == observer.values
