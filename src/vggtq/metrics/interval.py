"""The mean of differences over scenes, and whether it is more than noise. No torch: the report uses it too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SCENES = 3  # with fewer, no interval holds what it says without knowing how differences are distributed
ERROR_RATE = 0.05
_ROUNDING = 1e-9  # relative: differences that differ by less are equal

Array = NDArray[np.float64]


@dataclass
class Interval:
    """A mean over scenes, its 95 % t interval, and the p value of the paired t test."""

    mean: float  # null if no scene is defined
    # null with fewer than three scenes, one that is infinite, or no spread; so are `high` and `p`
    low: float | None
    high: float | None  # null likewise
    scenes: int  # where it is defined
    # Two-sided, of no difference, not corrected for the number of rows. Null likewise, and in records from before it was kept:
    # their ends are those of a bootstrap, and reports compute all three again from `geometry.scenes`.
    p: float | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Low and high; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def times(self, sign: int) -> "Interval":
        """The same with the other sign for -1; for metrics of which less is better."""
        ends = self.ends and sorted(sign * end for end in self.ends)
        low, high = ends or (None, None)
        return Interval(sign * self.mean, low, high, self.scenes, self.p)


def paired_interval(differences: Sequence[float]) -> Interval:
    """Their mean with its 95 % interval over scenes (`t_interval`).

    Scenes are the sample, each with its own difference, so that easy and hard scenes do not widen the interval. NaN
    differences are left out; an infinite one leaves no interval, nor do fewer than MIN_SCENES scenes, nor differences that all
    equal each other but not 0: metrics that count pairs have coarse steps, and three equal steps by chance have no spread.
    """
    values = np.array([value for value in differences if not math.isnan(value)], dtype=np.float64)
    if not len(values):
        return Interval(math.nan, None, None, 0)
    if len(values) < MIN_SCENES or not np.isfinite(values).all() or _equal(values):
        return Interval(float(values.mean()), None, None, len(values))
    mean, low, high, p = map(float, t_interval(values))
    return Interval(mean, low, high, len(values), p)


def _equal(values: Array) -> bool:
    largest = np.abs(values).max()
    return bool(largest > 0 and np.ptp(values) <= _ROUNDING * largest)


def t_interval(differences: Array) -> tuple[Array, Array, Array, Array]:
    """Mean, ends of its 95 % interval, and two-sided p value: the paired t test (Student 1908, The probable error of a mean).

    differences: (…, n), finite, n ≥ 2; each result has shape (…). The interval is mean ± t(.975, n − 1) · s / √n; the p value
    of differences that are all 0 is 1.
    """
    from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to load

    n = differences.shape[-1]
    mean = differences.mean(-1)
    error = differences.std(-1, ddof=1) / math.sqrt(n)
    half = stdtrit(n - 1, 1 - ERROR_RATE / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(mean == 0, 1.0, 2 * stdtr(n - 1, -np.abs(mean) / error))
    return mean, mean - half, mean + half, p


def p_of_at_most(change: Interval, bound: float) -> float:
    """One-sided p value of the paired t test that the true mean is `bound` or less. ValueError without an interval."""
    from scipy.special import stdtr, stdtrit

    if change.ends is None:
        raise ValueError("too few scenes for a test")
    half = (change.ends[1] - change.ends[0]) / 2
    if half == 0:
        return 0.0 if change.mean > bound else 1.0
    error = half / stdtrit(change.scenes - 1, 1 - ERROR_RATE / 2)
    return float(stdtr(change.scenes - 1, -(change.mean - bound) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values. Rejecting those up to α rejects at least one wrongly in at most a share α of cases.

    Holm (1979), A simple sequentially rejective multiple test procedure. Holds for tests that depend on each other, as those of
    rows on the same scenes do.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
