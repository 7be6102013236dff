"""Six charts of one comparison group on one page. Colours are Okabe and Ito's, which colour-blind readers can tell apart.

Rows share one vertical order (FP32 on top, then by compression), so that a scheme is found at the same height in
every chart. The size of the page grows with the number of rows. Nothing here uses pyplot: no global figure, no display.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vggtq.machine.fonts import families
from vggtq.metrics.table import HEADLINE
from vggtq.network.outputs import OUTPUTS
from vggtq.report.charts.pareto import draw_pareto
from vggtq.report.charts.style import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    finish,
    literal,
    log_axis,
    note,
    room,
    short_name,
    value_at,
)
from vggtq.report.charts.timing import draw_latency, draw_speedup
from vggtq.report.rows.columns import MIB
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import cut, cut_note, describe_group, listed

OUTPUT_STYLES = dict(
    zip(OUTPUTS, ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "v"), (PINK, "P")), strict=True)
)
_FAILED_NAMED = 8
_SLOTS = 4  # a single row would otherwise be drawn as bars as thick as the page


def save_figure(make: Callable[[], Any], path: Path) -> None:
    """Writes the figure that `make` draws to the PNG `path`, in fonts that have Chinese characters where there are any."""
    import matplotlib

    settings: dict[Any, Any] = {"font.family": families(), "font.size": 9, "hatch.linewidth": 0.6}
    settings |= {"axes.axisbelow": True, "axes.unicode_minus": False}
    with matplotlib.rc_context(settings), _quiet_fonts():
        # savefig would lay out and draw the page once more before it draws it
        make().canvas.print_png(path)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Chinese fonts often come in one weight only, about which matplotlib warns for every title."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def draw(group: Group, t: Translate) -> Any:
    """The figure, six charts in two lines of three."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = group.shown(DRAWN_ROWS)
    height = max(4.2, 1.9 + 0.34 * len(rows))
    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, hspace=0.04)
    figure = Figure(figsize=(19, 2 * height + 0.6), dpi=110, layout=engine)
    FigureCanvasAgg(figure)
    figure.suptitle(_headline(group, t), fontsize=11)
    if not rows:
        figure.text(0.5, 0.5, t("nothing"), ha="center", fontsize=16)
        return figure
    axes = figure.subplots(2, 3)
    draw_size(axes[0, 0], rows, t)
    draw_latency(axes[0, 1], rows, t)
    draw_compression(axes[0, 2], rows, t)
    draw_speedup(axes[1, 0], rows, t)
    draw_errors(axes[1, 1], rows, t)
    for axis in axes.flat[:5]:
        _name_rows(axis, rows, named=axis in axes[:, 0])
    draw_pareto(axes[1, 2], group.ok, t)
    return figure


def _headline(group: Group, t: Translate) -> str:
    lines = [literal(describe_group(group, t)), *cut_note(group, DRAWN_ROWS, t)]
    if group.failed:
        names = listed([row["title"] for row in group.failed], _FAILED_NAMED, t)
        lines.append(literal(cut(t("not_drawn", names=names), 180)))
    return "\n".join(filter(None, lines))


def _name_rows(axis: Any, rows: Sequence[Row], named: bool) -> None:
    """Row names at the left of a line of charts, FP32 on top, with faint bands that lead the eye."""
    axis.set_ylim(max(len(rows), _SLOTS) - 0.5, -0.5)
    names = [short_name(row["title"]) for row in rows] if named else []
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    for y in range(0, len(rows), 2):
        axis.axhspan(y - 0.5, y + 0.5, color="#F3F3F3", zorder=0, linewidth=0)
    axis.grid(axis="x", color="#D8D8D8", linewidth=0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)


def draw_size(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    sizes = [row["stored_bytes"] and row["stored_bytes"] / MIB for row in rows]
    known = _bars(axis, sizes, 0.0, 0.62, "{:,.1f}".format, t("missing"), color=BLUE)
    room(axis, known)
    finish(axis, t("chart.size"), t("axis.mib"))


def draw_compression(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    names = (("vs_fp32", "compression_vs_fp32", BLUE), ("vs_fp16", "compression_vs_fp16", SKY))
    known = []
    for side, (name, column, colour) in enumerate(names):
        values, style = [row[column] for row in rows], {"color": colour, "label": t(name)}
        known += _bars(axis, values, -0.19 + 0.38 * side, 0.36, "{:.2f}×".format, t("missing"), **style)
    room(axis, known)
    finish(axis, t("chart.compression"), t("axis.times"), columns=2)


def _bars(
    axis: Any,
    values: Sequence[float | None],
    offset: float,
    height: float,
    written: Callable[[float], str],
    missing: str,
    **style: Any,
) -> list[float]:
    """A bar with its number for each row, `missing` where there is none; returns the known values."""
    known = [(y, value) for y, value in enumerate(values) if value is not None]
    if known:
        ys, lengths = zip(*known, strict=True)
        axis.barh([y + offset for y in ys], lengths, height, **style)
    for y, value in enumerate(values):
        if value is None:
            note(axis, y, missing)
        else:
            value_at(axis, value, y + offset, written(value))
    return [value for _, value in known]


def draw_errors(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    """Five markers a row; an error of 0 sits on a mark of its own, one decade left of the smallest."""
    columns = [f"{output}.{HEADLINE.key}" for output in OUTPUTS]
    zero = log_axis(axis, [row[column] for row in rows for column in (*columns, "mean_relative_error")])
    marks: list[tuple[str, float, dict[str, Any]]] = [
        (
            column,
            0.13 * (index - 2),
            {"s": 30, "color": colour, "marker": marker, "label": output, "zorder": 3},
        )
        for index, (column, (output, (colour, marker))) in enumerate(
            zip(columns, OUTPUT_STYLES.items(), strict=True)
        )
    ]
    mean = {"s": 130, "color": "black", "marker": "|", "label": t("mean"), "zorder": 2}
    for column, offset, style in [*marks, ("mean_relative_error", 0.0, mean)]:
        known = [y for y, row in enumerate(rows) if row[column] is not None]
        if known:
            axis.scatter([rows[y][column] or zero for y in known], [y + offset for y in known], **style)
    for y, row in enumerate(rows):
        if row["non_finite"]:
            note(axis, y, t("non_finite"))
        elif all(row[column] is None for column in columns):
            note(axis, y, t("no_data"))
    finish(axis, t("chart.error"), t("axis.error"), columns=3)
