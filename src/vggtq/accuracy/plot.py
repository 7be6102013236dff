"""Accuracy lost against bytes: every row of the plan with its 95 % interval, a panel for each model."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from vggtq.accuracy.measures import AUC_CHANGE
from vggtq.accuracy.results import Line
from vggtq.report.charts.style import BLUE, GREY, literal

NAME_SIZE = 7.5  # points
NAME_WIDTH = 58  # characters
LINEAR = 0.002  # losses below are drawn on a linear scale, larger ones on a logarithmic one


def draw_lines(lines: Sequence[Line], path: Path) -> None:
    """Writes a PNG; x: MiB of the checkpoint, y: lost AUC@30 against FP32. Rows are numbered by their loss."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(line.model for line in lines))
    figure = Figure(figsize=(8.0, 4.6 * max(1, len(models))), layout="constrained")
    for axis, model in zip(figure.subplots(max(1, len(models)), squeeze=False)[:, 0], models, strict=False):
        own = sorted((line for line in lines if line.model == model), key=lambda line: _loss(line)[0])
        axis.axhline(0, color=GREY, linewidth=0.8)
        for number, line in enumerate(own, start=1):
            value, low, high = _loss(line)
            x = line.values["mib"].value
            axis.errorbar(x, value, [[value - low], [high - value]], fmt="o", color=BLUE, markersize=4)
            axis.annotate(str(number), (x, value), (5, 2), textcoords="offset points", fontsize=NAME_SIZE)
        names = [
            f"{number}  {textwrap.shorten(line.label, NAME_WIDTH)}" for number, line in enumerate(own, 1)
        ]
        axis.text(1.03, 0.5, literal("\n".join(names)), transform=axis.transAxes, va="center",
                  fontsize=NAME_SIZE, linespacing=1.7)  # fmt: skip
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.set_title(f"{model}, {own[0].scenes} scenes", fontsize=10, loc="left")
        axis.set_xlabel("MiB")
        axis.set_ylabel("AUC@30 lost against FP32, 95 % interval")
        axis.grid(color="#D8D8D8", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, format="png")


def _loss(line: Line) -> tuple[float, float, float]:
    """Value and ends; the value itself where there is no interval."""
    found = line.values[AUC_CHANGE]
    if math.isnan(found.low):
        return -found.value, -found.value, -found.value
    return -found.value, -found.high, -found.low
