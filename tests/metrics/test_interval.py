"""The interval holds what it says under several nulls, from three scenes on; Holm's correction against its definition."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vggtq.metrics.interval import ERROR_RATE, Interval, holm, paired_interval, t_interval

NULLS = 2000
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def with_outliers(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One difference in ten is five times as large."""
    return random.normal(size=shape) * np.where(random.random(shape) < 0.1, 5.0, 1.0)


# Differences of scores in two models that are equally good; skewed ones are of the scores, whose models are exchangeable.
DRAWS: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "outliers": with_outliers,
    "exponential": lambda random, shape: random.exponential(size=shape) - random.exponential(size=shape),
    "lognormal": lambda random, shape: random.lognormal(0, 0.5, shape) - random.lognormal(0, 0.5, shape),
}


@pytest.mark.parametrize("scenes", [3, 4, 8, 16, 32])
@pytest.mark.parametrize("kind", DRAWS)
def test_95_percent_of_intervals_hold_no_difference_where_there_is_none(kind: str, scenes: int) -> None:
    random = np.random.default_rng([scenes, *kind.encode()])
    _, low, high, p = t_interval(DRAWS[kind](random, (NULLS, scenes)))
    held = (low <= 0) & (high >= 0)
    assert 0.93 <= held.mean() <= 0.975
    assert np.array_equal(held, p >= ERROR_RATE)


def test_interval_and_p_value_are_those_of_the_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 9)
    found, expected = paired_interval(list(differences)), stats.ttest_1samp(differences, 0)
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, expected.pvalue))
    assert found.mean == pytest.approx(differences.mean()) and found.scenes == 9


def test_fewer_than_three_scenes_have_no_interval_and_failures_leave_none() -> None:
    assert paired_interval([0.5]) == Interval(0.5, None, None, 1)
    assert paired_interval([0.5, 0.7]) == Interval(0.6, None, None, 2)
    failed = paired_interval([0.5, 0.6, 0.7, math.inf])
    assert (failed.mean, failed.low, failed.high, failed.p) == (math.inf, None, None, None)
    partly = paired_interval([0.5, math.nan, 0.7, 0.9])
    assert partly.scenes == 3 and partly.low is not None
    assert paired_interval([math.nan, 0.5, 0.7]).low is None
    assert paired_interval([]).scenes == 0


def test_equal_differences_say_nothing_of_their_spread_unless_all_are_0() -> None:
    """Three scenes that lose one pair of cameras each may have lost it by chance."""
    assert paired_interval([0.1 + 0.2, 0.3, 0.3]).low is None
    assert paired_interval([0.0, 0.0, 0.0]) == Interval(0.0, 0.0, 0.0, 3, 1.0)
    assert paired_interval([0.0, 0.0, 0.3]).low is not None


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_as_its_steps_say(p_values: list[float], rate: float) -> None:
    """Step by step, as Holm (1979) states it: the smallest against α/m, the next against α/(m − 1), until one is kept."""
    rejected: set[int] = set()
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for step, i in enumerate(order):
        if (len(p_values) - step) * p_values[i] > rate:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= rate} == rejected


def test_holm_adjusts_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
