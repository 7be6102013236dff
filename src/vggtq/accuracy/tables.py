"""The accuracy tables as Markdown and CSV."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vggtq.accuracy.measures import COLUMNS
from vggtq.accuracy.results import Line, Told, Verdict
from vggtq.report.documents.tables import markdown_table


def model_table(lines: Sequence[Line]) -> str:
    """One model's rows."""
    columns = [column for column in COLUMNS.values() if column.shown]
    headings = ["scheme", *(column.heading for column in columns)]
    cells = [[one.label, *(column.written(one.values[column.key]) for column in columns)] for one in lines]
    return markdown_table(headings, cells)


def verdict_table(verdicts: Sequence[Verdict], labels: dict[str, str]) -> str:
    headings = ("requirement", "model", "decided by", "measured", "bound", "verdict")
    measured = replace(COLUMNS["error_ratio"], form="{:.3f}")
    lines = [
        (v.what, v.model, labels.get(v.row or "", "–"), measured.written(v.found), v.bound, _word(v))
        for v in verdicts
    ]
    return markdown_table(headings, lines, left=3)


def _word(verdict: Verdict) -> str:
    if verdict.met is None:
        return "undefined" if verdict.row else "not measured"
    return ("met" if verdict.met else "not met") + (
        "" if verdict.certain else " (the interval holds the bound)"
    )


def told_table(found: Sequence[Told], labels: dict[str, str]) -> str:
    """A table of the contrasts, each with the metric that shows it best."""
    headings = ("scheme", "against", "metric", "difference", "p, Holm", "told apart")
    lines = []
    for one in found:
        low, high = one.difference.ends or (math.nan, math.nan)
        against = labels.get(one.contrast.against or "", "FP32")
        difference = f"{one.difference.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        verdict = "yes" if one.apart else "no"
        lines.append((labels[one.contrast.row], against, one.metric, difference, f"{one.p:.2g}", verdict))
    return markdown_table(headings, lines, left=3)


def write_csv(lines: Sequence[Line], path: Path) -> None:
    """One line per row and model, every estimate as value, low and high."""
    import pandas as pd

    pd.DataFrame([_flat(line) for line in lines]).to_csv(path, index=False)


def _flat(line: Line) -> dict[str, Any]:
    flat = asdict(line)
    for key, found in flat.pop("values").items():
        ends = {f"{key}_{end}": found[end] for end in ("low", "high")}
        flat |= {key: found["value"]} | (ends if COLUMNS[key].ends else {})
    return flat | {"geometry_change_of": line.values["geometry_change"].note}
