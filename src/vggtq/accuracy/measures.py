"""Numbers of a row with their 95 % intervals, from the records of its runs.

A change of a metric against ground truth is taken scene by scene, its mean over calibration seeds, and has the t interval of
`vggtq.metrics.interval`. Ratios are functions of means over seeds and scenes, which are resampled, crossed: a draw picks seeds
and scenes with replacement and takes the mean of the picked seeds on the picked scenes (Efron and Tibshirani 1993, §13; Owen
2007, The pigeonhole bootstrap), the same scenes for both sides of a comparison. Three seeds are few: what they leave out of
an interval is shown by their own range. Rows without data have one seed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vggtq.metrics.interval import Interval, paired_interval
from vggtq.metrics.metric import TRUTH, Metric
from vggtq.metrics.results import SceneGeometry, score
from vggtq.metrics.table import metrics, named
from vggtq.records.schema import Record
from vggtq.report.rows.columns import MIB
from vggtq.report.rows.row import Row, record_row

Array = NDArray[np.float64]

DRAWS = 2000
# The metrics against ground truth whose change tables show, and by which schemes are told apart.
TOLD_BY = (
    "pose.auc_3",
    "pose.auc_5",
    "pose.auc_30",
    "depth.inlier_1_03",
    "depth.abs_rel",
    "points.relative_error_median",
)
AUC_CHANGE = "pose_auc_30_change"
OUTPUT = "world_points"  # whose squared error is called the output MSE
# Shares of pairs or pixels: their change is in points, not relative.
POINT_UNITS = ("rra_", "rta_", "auc_", "delta_", "inlier_")


@dataclass(frozen=True)
class Estimate:
    """low, high: 95 % interval; NaN where undefined. note: which metric it is of, where that is a choice."""

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """The records of one row on one model, one per seed, on the same scenes in the same order."""

    records: Sequence[Record]

    @cached_property
    def rows(self) -> list[Row]:
        """The report's row of each record."""
        return [record_row(record) for record in self.records]

    def over_seeds(self, column: str) -> Estimate:
        """The mean of a column of the report, with its lowest and highest value over seeds."""
        values = np.array([row[column] for row in self.rows], dtype=np.float64)
        return Estimate(float(values.mean()), float(values.min()), float(values.max()))

    def quantize_s(self) -> float:
        """Mean over seeds."""
        return float(np.mean([record.seconds["quantize"] or math.nan for record in self.records]))

    def output_mse(self) -> Array:
        """(seeds, scenes)."""
        return np.array([[s.mse[OUTPUT] for s in r.fidelity_scenes or ()] for r in self.records])

    def geometry(self, part: str, metric: str, side: str = "quantized") -> Array:
        """(seeds, scenes); NaN where undefined."""
        values = [[score(getattr(s, side), part, metric) for s in _scenes(r)] for r in self.records]
        return np.array(values, dtype=np.float64)

    def metrics(self) -> list[Metric]:
        """Those that ground truth is known for and that are better or worse."""
        geometry = self.records[0].geometry
        known = geometry.reference if geometry else {}
        return [m for m in metrics(*TRUTH) if m.direction and isinstance(score(known, m.scope, m.key), float)]


def _scenes(record: Record) -> list[SceneGeometry]:
    return record.geometry.scenes if record.geometry else []


def estimate(statistic: Callable[..., Array], *tables: Array) -> Estimate:
    """`statistic` of the tables' means. Each table is (seeds, scenes), all of the same scenes; NaN scenes are left out."""
    random = np.random.default_rng(0)
    scenes = tables[0].shape[1]
    picked = random.multinomial(scenes, np.full(scenes, 1 / scenes), DRAWS)  # (draws, scenes), how often each
    drawn = []
    for table in tables:
        seeds = len(table)
        weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
        counts = picked * np.isfinite(table).all(0)
        means = (weights @ np.nan_to_num(table) * counts).sum(1) / np.maximum(counts.sum(1), 1)
        drawn.append(means)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(np.array([np.nanmean(table)]) for table in tables))[0])
        draws = statistic(*drawn)
    if any(np.isinf(table).any() for table in tables) or not np.isfinite(draws).any():
        return Estimate(value)
    low, high = np.nanpercentile(np.where(np.isfinite(draws), draws, np.nan), (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def error_ratio(row: Measured, nearest: Measured | None) -> Estimate:
    """Output MSE over that of rounding to nearest."""
    if nearest is None:
        return Estimate(math.nan)
    return estimate(lambda own, other: own / other, row.output_mse(), nearest.output_mse())


def difference(row: Measured, other: Measured | None, metric: str) -> Interval:
    """A metric of a row, `pose.auc_30`, minus that of another row, or of FP32."""
    part, key = metric.split(".")
    base = row.geometry(part, key, "reference") if other is None else other.geometry(part, key)
    return paired_interval((row.geometry(part, key).mean(0) - base.mean(0)).tolist())


def _change(metric: str) -> "Column":
    def of(row: Measured, _: Measured | None = None) -> Estimate:
        found = difference(row, None, metric)
        low, high = found.ends or (math.nan, math.nan)
        return Estimate(found.mean, low, high)

    return Column(f"{metric.replace('.', '_')}_change", named(metric).titles[0], of, "{:+.4f}")


def recovered_auc(row: Measured, nearest: Measured | None) -> Estimate:
    """Share of the AUC@30 that nearest loses and that this row keeps; undefined where nearest may have lost nothing."""
    if nearest is None or not COLUMNS[AUC_CHANGE].of(nearest, None).high < 0:
        return Estimate(math.nan)
    lost, kept = (r.geometry("pose", "auc_30", "reference") for r in (nearest, row))
    ours, theirs = (r.geometry("pose", "auc_30") for r in (row, nearest))
    return estimate(lambda own, other: 1 - own / other, kept - ours, lost - theirs)


def worst_geometry_change(row: Measured, _: Measured | None = None) -> Estimate:
    """The largest change of any metric against ground truth: in points for shares, relative to FP32's value for all else."""
    changes = [_geometry_change(row, metric) for metric in row.metrics()]
    return max(changes, key=lambda change: math.inf if math.isnan(change.value) else abs(change.value))


def _geometry_change(row: Measured, metric: Metric) -> Estimate:
    own, reference = (row.geometry(metric.scope, metric.key, side) for side in ("quantized", "reference"))
    if metric.key.startswith(POINT_UNITS):
        change = estimate(lambda difference: difference, own - reference)
    else:
        change = estimate(lambda a, b: a / b - 1, own, reference[:1])
    return replace(change, note=f"{metric.scope} {metric.key}")


SEEDS, INTERVAL = (
    " ({} … {})",
    " [{}, {}]",
)  # how the ends of a range over seeds and of an interval are written


@dataclass(frozen=True)
class Column:
    """One number of the tables. of: a row and its nearest to the number; ends: empty where it has none."""

    key: str
    heading: str
    of: Callable[[Measured, Measured | None], Estimate]
    form: str
    ends: str = INTERVAL
    shown: bool = True  # in the Markdown table; the CSV has all

    def written(self, found: Estimate) -> str:
        """The number with the ends of its interval and its note; a dash where it is undefined."""
        if math.isnan(found.value):
            return "–"
        value, low, high = (self.form.format(number) for number in (found.value, found.low, found.high))
        known = self.ends and not math.isnan(found.low) and (self.ends == INTERVAL or low != high)
        return f"{value}{self.ends.format(low, high) if known else ''} {found.note}".rstrip()


def _title(name: str) -> str:
    return named(name).titles[0]


COLUMNS = {
    column.key: column
    for column in (
        Column("mib", "MiB", lambda own, _: Estimate(own.rows[0]["stored_bytes"] / MIB), "{:.1f}", ""),
        Column(
            "relative_error",
            _title("mean_relative_error"),
            lambda own, _: own.over_seeds("mean_relative_error"),
            "{:.3g}",
            SEEDS,
        ),
        Column(
            "output_mse",
            "output MSE",
            lambda own, _: own.over_seeds(f"{OUTPUT}.mse"),
            "{:.3g}",
            SEEDS,
            shown=False,
        ),
        Column("error_ratio", "× nearest", error_ratio, "{:.2f}"),
        Column(
            "rotation_deg",
            f"{_title('pose.rotation_deg_mean')} (°)",
            lambda own, _: own.over_seeds("pose.rotation_deg_mean"),
            "{:.2g}",
            SEEDS,
        ),
        *map(_change, TOLD_BY),
        Column("recovered_auc", "recovered", recovered_auc, "{:.0%}", shown=False),
        Column(
            "geometry_change",
            "largest change of a geometry metric",
            worst_geometry_change,
            "{:+.1%}",
            shown=False,
        ),
        Column(
            "quantize_s",
            "seconds to quantize",
            lambda own, _: Estimate(own.quantize_s()),
            "{:.1f}",
            "",
            shown=False,
        ),
    )
}
