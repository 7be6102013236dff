"""The accuracy tables as Markdown and CSV."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from vggtq.accuracy.measures import Estimate
from vggtq.accuracy.results import Line, Verdict
from vggtq.report.tables import escape, markdown_table

HEADINGS = (
    *("scheme", "MiB", "mean relative error", "output MSE", "× nearest", "rotation error (°)"),
    *("AUC@30", "recovered", "AbsRel", "largest change of a geometry metric", "seconds to quantize"),
)


def model_table(lines: Sequence[Line]) -> str:
    """One model's rows."""
    return markdown_table(HEADINGS, [[escape(cell) for cell in _cells(line)] for line in lines])


def _cells(line: Line) -> list[str]:
    return [
        line.label,
        f"{line.mib:.1f}",
        _range(line.relative_error, 3),
        _range(line.output_mse, 3),
        _interval(line.error_ratio, "{:.2f}"),
        _range(line.rotation_deg, 2),
        _interval(line.auc_change, "{:+.3f}"),
        _interval(line.recovered_auc, "{:.0%}"),
        _interval(line.abs_rel_change, "{:+.3f}"),
        f"{_interval(line.geometry_change, '{:+.1%}')} {line.geometry_change.note}",
        f"{line.quantize_s:.1f}",
    ]


def verdict_table(verdicts: Sequence[Verdict], labels: dict[str, str]) -> str:
    headings = ("requirement", "model", "decided by", "measured", "bound", "verdict")
    lines = [
        [
            *(verdict.what, verdict.model, labels.get(verdict.row or "", "–")),
            f"{_interval(verdict.found, '{:.3f}')} {verdict.found.note}".strip(),
            *(verdict.bound, _word(verdict)),
        ]
        for verdict in verdicts
    ]
    return markdown_table(headings, [[escape(cell) for cell in line] for line in lines], left=3)


def _word(verdict: Verdict) -> str:
    if verdict.met is None:
        return "undefined" if verdict.row else "not measured"
    return ("met" if verdict.met else "not met") + (
        "" if verdict.certain else " (the interval holds the bound)"
    )


def _interval(found: Estimate | None, form: str) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    ends = "" if math.isnan(found.low) else f" [{form.format(found.low)}, {form.format(found.high)}]"
    return form.format(found.value) + ends


def _range(found: Estimate, digits: int) -> str:
    """Mean over seeds, and the lowest and highest where they differ."""
    value = f"{found.value:.{digits}g}"
    low, high = f"{found.low:.{digits}g}", f"{found.high:.{digits}g}"
    return value if low == high else f"{value} ({low} … {high})"


def write_csv(lines: Iterable[Line], path: Path) -> None:
    """One line per row and model, every estimate as value, low and high."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for line in lines:
            values = _flat(line)
            if writer is None:
                writer = csv.DictWriter(file, list(values))
                writer.writeheader()
            writer.writerow(values)


def _flat(line: Line) -> dict[str, object]:
    values: dict[str, object] = {}
    for field in fields(line):
        value = getattr(line, field.name)
        if field.name.split("_")[-1] in ("ratio", "change", "auc", "error", "mse", "deg"):
            value = value or Estimate(math.nan)
            values |= {
                field.name: value.value,
                f"{field.name}_low": value.low,
                f"{field.name}_high": value.high,
            }
        else:
            values[field.name] = value
    values["geometry_change_of"] = line.geometry_change.note
    return values
