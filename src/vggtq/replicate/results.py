"""Published beside measured, with 95 % intervals over scenes."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggtq.metrics.interval import MIN_SCENES, Interval, paired_interval
from vggtq.metrics.results import score
from vggtq.records.schema import Record
from vggtq.replicate.paper import Paper
from vggtq.report.documents.tables import markdown_table

Array = NDArray[np.float64]
TOO_FEW = "too few scenes to tell"


@dataclass(frozen=True)
class Compared:
    """One number. published: None of a row that is ours. measured: over scenes; None where the row was not measured. least: the
    source says "at least".
    """

    row: str
    label: str
    metric: str
    published: float | None
    measured: Interval | None
    least: bool = False

    @property
    def verdict(self) -> str:
        """Whether the interval of the measurement holds what was published."""
        if self.measured is None:
            return "not measured"
        if self.published is None:
            return "not published"
        ends = self.measured.ends
        if ends is None:
            return TOO_FEW if self.measured.scenes < MIN_SCENES else "no interval"
        low, high = ends
        if self.least:
            return (
                "reached" if low >= self.published else "missed" if high < self.published else "not certain"
            )
        return "agrees" if low <= self.published <= high else "lower" if high < self.published else "higher"


def compared(paper: Paper, records: Mapping[str, Record]) -> list[Compared]:
    """Every value of every row, each followed by its change against the float row. records: of the rows that were measured."""
    found = []
    for name, row in paper.rows.items():
        own, base_name = records.get(name), paper.float_row(name)
        base, base_record = paper.rows[base_name], records.get(base_name)
        for metric, value in paper.values(name).items():
            found.append(Compared(name, row.label, metric, value, _mean(paper, own, metric)))
            if name != base_name and metric in base.values:
                change = _change(paper, own, base_record, metric)
                published = None if value is None else value - base.values[metric]
                found.append(Compared(name, row.label, f"change of {metric}", published, change))
        for metric, share in row.kept.items():
            kept = _kept(paper, own, base_record, metric)
            found.append(Compared(name, row.label, f"kept of {metric}", share, kept, least=True))
    return found


def _mean(paper: Paper, record: Record | None, metric: str) -> Interval | None:
    return None if record is None else paired_interval(_scores(paper, record, metric).tolist())


def _change(paper: Paper, record: Record | None, base: Record | None, metric: str) -> Interval | None:
    """Of the float row's scenes, each with its own difference."""
    if record is None or base is None:
        return None
    return paired_interval((_scores(paper, record, metric) - _scores(paper, base, metric)).tolist())


def _kept(paper: Paper, record: Record | None, base: Record | None, metric: str) -> Interval | None:
    """1 + mean change / mean of the float row, whose own uncertainty is left out."""
    change = _change(paper, record, base, metric)
    if change is None or base is None:
        return None
    whole = float(np.nanmean(_scores(paper, base, metric)))

    def share(value: float | None) -> float | None:
        return None if value is None else 1 + value / whole if whole else math.nan

    return Interval(share(change.mean) or math.nan, share(change.low), share(change.high), change.scenes)


def _scores(paper: Paper, record: Record, metric: str) -> Array:
    """Of each scene, weighted so that their mean is the mean of the categories' means where the paper takes that."""
    part, _, key = metric.partition(".")
    scenes = record.geometry.scenes if record.geometry else []
    values = np.array([score(scene.quantized, part, key) for scene in scenes], dtype=np.float64)
    if paper.average == "scenes":
        return values
    categories = [scene.scene.partition("/")[0] for scene in scenes]
    sizes = Counter(
        category for category, value in zip(categories, values, strict=True) if not math.isnan(value)
    )
    known = sum(sizes.values())
    return values * [
        known / (len(sizes) * sizes[category]) if category in sizes else math.nan for category in categories
    ]


def table(lines: list[Compared], judged: bool = True) -> str:
    """As Markdown. judged: with a verdict on each, which only the paper's own protocol allows."""
    headings = (
        "row",
        "metric",
        "published",
        "measured",
        "95 % interval",
        "scenes",
        "measured against published",
    )
    kept = len(headings) if judged else -1
    return markdown_table(headings[:kept], [_cells(line)[:kept] for line in lines], left=2)


def as_csv(lines: list[Compared], judged: bool = True) -> str:
    """One line for each published number; without a verdict as in `table`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "label", "metric", "published", "measured", "low", "high", "scenes", "verdict"))
    for line in lines:
        m = line.measured
        numbers = (m.mean, m.low, m.high, m.scenes) if m else (None, None, None, 0)
        verdict = line.verdict if judged else ""
        writer.writerow((line.row, line.label, line.metric, line.published, *numbers, verdict))
    return stream.getvalue()


def _cells(line: Compared) -> tuple[str, ...]:
    sign = "+" if line.metric.startswith("change") else ""
    least = "≥ " if line.least else ""
    published = "–" if line.published is None else f"{least}{line.published:{sign}.4g}"
    m = line.measured
    if m is None:
        return (line.label, line.metric, published, "–", "–", "–", line.verdict)
    ends = f"[{m.low:{sign}.4f}, {m.high:{sign}.4f}]" if m.ends else "–"
    return (line.label, line.metric, published, f"{m.mean:{sign}.4f}", ends, str(m.scenes), line.verdict)
