"""Numbers of a row with their 95 % intervals, from the records of its runs.

Every number is a function of means over calibration seeds and rooms. Both are resampled, crossed: a draw picks seeds and
rooms with replacement and takes the mean of the picked seeds on the picked rooms (Efron and Tibshirani 1993, §13; Owen
2007, The pigeonhole bootstrap), the same rooms for both sides of a comparison. Three seeds are few: what they leave out of
an interval is shown by their own range. Rows without data have one seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Array = NDArray[np.float64]

DRAWS = 2000
OUTPUT = "world_points"  # whose squared error is called the output MSE
POINT_UNITS = (
    "rra_",
    "rta_",
    "auc_",
    "delta_",
)  # shares of pairs or pixels: their change is in points, not relative
NO_QUALITY = ("scale",)  # metrics that say nothing about how good a prediction is


@dataclass(frozen=True)
class Estimate:
    """low, high: 95 % interval; NaN where undefined. note: which metric it is of, where that is a choice."""

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """The records of one row on one model, one per seed, on the same rooms in the same order."""

    records: Sequence[Record]

    def output_mse(self) -> Array:
        """(seeds, rooms)."""
        return np.array([[s["mse"][OUTPUT] for s in r["fidelity_scenes"]] for r in self.records])

    def geometry(self, part: str, metric: str, side: str = "quantized") -> Array:
        """(seeds, rooms); NaN where undefined."""
        values = [[_value(s[side], part, metric) for s in r["geometry"]["scenes"]] for r in self.records]
        return np.array(values, dtype=np.float64)

    def metrics(self) -> list[tuple[str, str]]:
        """(part, metric) of everything that ground truth is known for and that is better or worse."""
        reference = self.records[0]["geometry"]["reference"]
        return [
            (part, metric)
            for part, values in reference.items()
            for metric, value in values.items()
            if isinstance(value, float) and metric not in NO_QUALITY
        ]

    def per_seed(self, value: Callable[[Record], float]) -> Array:
        """(seeds,)."""
        return np.array([value(record) for record in self.records])


def _value(side: Record, part: str, metric: str) -> float:
    value = side.get(part, {}).get(metric)
    return math.nan if value is None else value


def estimate(statistic: Callable[..., Array], *tables: Array) -> Estimate:
    """`statistic` of the tables' means. Each table is (seeds, rooms) with the same rooms; rooms that are NaN are left out."""
    random = np.random.default_rng(0)
    rooms = tables[0].shape[1]
    picked = random.multinomial(rooms, np.full(rooms, 1 / rooms), DRAWS)  # (draws, rooms), how often each
    drawn = []
    for table in tables:
        seeds = len(table)
        weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
        drawn.append(_weighted(weights @ np.nan_to_num(table), picked, np.asarray(np.isfinite(table).all(0))))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(np.array([np.nanmean(table)]) for table in tables))[0])
        draws = statistic(*drawn)
    if any(np.isinf(table).any() for table in tables) or not np.isfinite(draws).any():
        return Estimate(value)
    low, high = np.nanpercentile(np.where(np.isfinite(draws), draws, np.nan), (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def _weighted(values: Array, picked: NDArray[np.int64], defined: NDArray[np.bool_]) -> Array:
    counts = picked * defined
    return (values * counts).sum(1) / np.maximum(counts.sum(1), 1)


def error_ratio(row: Measured, nearest: Measured | None) -> Estimate:
    """Output MSE over that of rounding to nearest."""
    if nearest is None:
        return Estimate(math.nan)
    return estimate(lambda own, other: own / other, row.output_mse(), nearest.output_mse())


def auc_change(row: Measured, _: Measured | None = None) -> Estimate:
    """AUC@30 minus FP32's."""
    return _change(row, "pose", "auc_30")


def abs_rel_change(row: Measured, _: Measured | None = None) -> Estimate:
    """AbsRel of depth minus FP32's."""
    return _change(row, "depth", "abs_rel")


def _change(row: Measured, part: str, metric: str) -> Estimate:
    own, reference = (row.geometry(part, metric, side) for side in ("quantized", "reference"))
    return estimate(lambda difference: difference, own - reference)


def recovered_auc(row: Measured, nearest: Measured | None) -> Estimate:
    """Share of the AUC@30 that nearest loses and that this row keeps; undefined where nearest may have lost nothing."""
    if nearest is None or not auc_change(nearest).high < 0:
        return Estimate(math.nan)
    lost, kept = (r.geometry("pose", "auc_30", "reference") for r in (nearest, row))
    ours, theirs = (r.geometry("pose", "auc_30") for r in (row, nearest))
    return estimate(lambda own, other: 1 - own / other, kept - ours, lost - theirs)


def worst_geometry_change(row: Measured, _: Measured | None = None) -> Estimate:
    """The largest change of any metric against ground truth: in points for shares, relative to FP32's value for all else."""
    changes = [_geometry_change(row, part, metric) for part, metric in row.metrics()]
    return max(changes, key=lambda change: abs(change.value) if change.value == change.value else math.inf)


def _geometry_change(row: Measured, part: str, metric: str) -> Estimate:
    own, reference = (row.geometry(part, metric, side) for side in ("quantized", "reference"))
    name = f"{part} {metric}"
    if metric.startswith(POINT_UNITS):
        change = estimate(lambda difference: difference, own - reference)
    else:
        change = estimate(lambda a, b: a / b - 1, own, reference[:1])
    return Estimate(change.value, change.low, change.high, name)


MEASURES: dict[str, Callable[[Measured, Measured | None], Estimate]] = {
    "error_ratio": error_ratio,
    "auc_change": auc_change,
    "recovered_auc": recovered_auc,
    "geometry_change": worst_geometry_change,
}
