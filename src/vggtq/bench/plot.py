"""One picture of the benchmark: a panel per kind of case, one point per candidate and case, FP32 at 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggtq.bench.rows import FP32, Row
from vggtq.bench.table import title_of
from vggtq.files.atomic import replacing
from vggtq.machine.environment import Environment

SECTIONS = {
    "kernel": "linear layers of VGGT-1B and of a small model",
    "block": "a transformer block of VGGT-1B",
    "model": "whole models",
}
OWN, OTHER, REFERENCE = "#1f77b4", "#b0722a", "#444444"


def plot(rows: Sequence[Row], env: Environment, path: Path) -> None:
    """Writes a PNG."""
    from matplotlib.figure import Figure

    ran = [row for row in rows if "skipped" not in row and row["name"] != FP32]
    sections = [section for section in SECTIONS if any(row["section"] == section for row in ran)]
    names = [list(dict.fromkeys(r["name"] for r in ran if r["section"] == s)) for s in sections]
    heights = [len(own) + 1 for own in names]
    figure = Figure(figsize=(9, 1.2 + 0.26 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(sections), 1, sharex=True, height_ratios=heights, squeeze=False)
    for axes, section, own in zip(grid[:, 0], sections, names, strict=True):
        _panel(axes, [row for row in ran if row["section"] == section], own)
        axes.set_title(SECTIONS[section], loc="left", fontsize=10)
    grid[-1, 0].set_xlabel(
        "times as fast as FP32: median of the ratios within rounds, bars from quartile to quartile\n"
        "blue: vggtq, hollow where simulated; grey: torch; brown: other tools"
    )
    figure.suptitle(title_of(env), fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)


def _panel(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    cases = list(dict.fromkeys(row["case"] for row in rows))
    markers = "osD^v<>Pp*XhH8"
    for index, name in enumerate(names):
        for row in (row for row in rows if row["name"] == name):
            ratio, case = row["speedup"]["fp32"], cases.index(row["case"])
            place = index + (case - (len(cases) - 1) / 2) * 0.6 / max(1, len(cases))
            color = {"vggtq": OWN, "torch": REFERENCE}.get(row["tool"], OTHER)
            axes.plot([ratio["q25"], ratio["q75"]], [place, place], color=color, linewidth=1, alpha=0.5)
            axes.plot(
                *(ratio["median"], place, markers[case % len(markers)]),
                color=color,
                markersize=4.5,
                markerfacecolor="none" if row["simulated"] else color,
            )
    for case, text in enumerate(cases):
        axes.plot([], [], markers[case % len(markers)], color="#777777", markersize=4.5, label=text)
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
