"""The changes against FP32 that may be called better or worse, and the smallest change that scenes can show.

A change is better or worse where its 95 % interval over scenes excludes 0 and its p value, corrected by Holm's method for the
number of rows that are compared in this metric, is at most .05. FP32's own row is not compared with itself.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from vggtq.metrics.interval import ERROR_RATE, MIN_SCENES, Interval, holm, p_of_at_most
from vggtq.metrics.metric import NEITHER, TRUTH, Metric
from vggtq.metrics.table import BUILT_IN, metrics
from vggtq.records.plain import number
from vggtq.report.rows.recommend import BEYOND, OPEN, TOLERANCE, WITHIN, is_reference
from vggtq.report.rows.row import Row

BETTER, WORSE, FEW = "better", "worse", "few"
TOLD = (BETTER, WORSE)
# The headline scores: shares, and a relative error, so that one tolerance is a size for each of them.
DECIDING = tuple(metric for metric in BUILT_IN if metric.scope in TRUTH and "paper" in metric.shown)


def verdicts(changes: Sequence[Interval | None], direction: int) -> list[str | None]:
    """For each row's change of one metric: better, worse, open (no difference can be shown) or few (too few
    scenes to decide).

    None where no change is known or a scene's is infinite, and for metrics without a better direction.
    """
    known = {i: change.p for i, change in enumerate(changes) if change and change.p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return [_verdict(change, adjusted.get(i, 1.0), direction) for i, change in enumerate(changes)]


def _verdict(change: Interval | None, p: float, direction: int) -> str | None:
    if change is None or number(change.mean) is None or direction == NEITHER:
        return None
    if change.scenes < MIN_SCENES:
        return FEW
    if change.ends is None or change.ends[0] <= 0 <= change.ends[1] or p > ERROR_RATE:
        return OPEN
    return BETTER if (change.mean > 0) == (direction > 0) else WORSE


def scores_of(row: Row, metric: Metric) -> tuple[float | None, float | None]:
    """A row's score against ground truth, and that of FP32."""
    return row.get(f"geometry.quantized.{metric.name}"), row.get(f"geometry.reference.{metric.name}")


def change_of(row: Row, metric: Metric) -> Interval | None:
    """A row's change of a metric against ground truth; None where it is not known."""
    name = f"geometry.change.{metric.name}."
    mean, low, high, scenes, p = (row.get(name + end) for end in ("mean", "low", "high", "scenes", "p"))
    return None if mean is None else Interval(mean, low, high, scenes or 0, p)


def verdict_of(row: Row, metric: Metric) -> str | None:
    return row.get(f"geometry.change.{metric.name}.verdict")


def enter_verdicts(rows: Sequence[Row]) -> None:
    """Adds `geometry.change.<metric>.verdict`, and `loss`, to the rows of one group."""
    compared = [row for row in rows if not is_reference(row)]
    for metric in metrics(*TRUTH):
        changes = [change_of(row, metric) for row in compared]
        if any(changes):
            for row, verdict in zip(compared, verdicts(changes, metric.direction), strict=True):
                row[f"geometry.change.{metric.name}.verdict"] = verdict
    by_metric = [
        losses([change_of(row, metric) for row in compared], metric.direction) for metric in DECIDING
    ]
    for row, own in zip(compared, zip(*by_metric, strict=True), strict=True):
        row["loss"] = loss_of(own)


def losses(changes: Sequence[Interval | None], direction: int) -> list[str | None]:
    """For each row's change of one metric: within, beyond or open, as TOLERANCE asks; None where no change is known.

    Beyond: called worse, and the mean loses more than that. Within: a one-sided paired t test shows less, at half of the error
    rate as either end of a 95 % interval does, after Holm's correction for the number of rows.
    """
    gains = [change and change.times(direction) for change in changes]
    known = {i: gain for i, gain in enumerate(gains) if gain and gain.ends}
    p_values = holm([p_of_at_most(gain, -TOLERANCE) for gain in known.values()])
    shown = {i for i, p in zip(known, p_values, strict=True) if p <= ERROR_RATE / 2}
    found: list[str | None] = []
    for i, (gain, verdict) in enumerate(zip(gains, verdicts(changes, direction), strict=True)):
        lost = verdict == WORSE and gain is not None and gain.mean < -TOLERANCE
        found.append(BEYOND if lost else WITHIN if i in shown else OPEN if gain else None)
    return found


def loss_of(found: Sequence[str | None]) -> str | None:
    """Joint verdict of all headline scores. Depth alone cannot show sound cameras, so none may be absent."""
    if not any(found):
        return None
    return BEYOND if BEYOND in found else WITHIN if set(found) == {WITHIN} else OPEN


def few_scenes(rows: Iterable[Row], known: Sequence[Metric]) -> bool:
    """Whether a change in one of these metrics has too few scenes for any verdict."""
    return any(verdict_of(row, metric) == FEW for row in rows for metric in known)


def resolution(changes: Iterable[Interval | None]) -> float | None:
    """The smallest difference that these scenes could show: half the width of the median row's interval."""
    widths = [change.ends[1] - change.ends[0] for change in changes if change and change.ends]
    halves = [width / 2 for width in widths if width > 0]
    return median(halves) if halves else None
