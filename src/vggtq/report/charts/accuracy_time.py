"""Cameras' AUC@30 against time, a panel for each group of comparable runs: what fewer bits, or less attention, buy and cost.

Groups differ in their images, so that runs of one grid over `frames` become panels side by side.
"""

from collections.abc import Sequence
from typing import Any

from vggtq.report.charts.pareto import name_points
from vggtq.report.charts.style import BLUE, GREY, ORANGE, finish, literal, short_name
from vggtq.report.rows.groups import Group
from vggtq.report.rows.recommend import is_reference, is_timed, pareto_front
from vggtq.report.rows.row import Row
from vggtq.report.words.texts import Translate

AUC, MS = "geometry.quantized.pose.auc_30", "fp32.comparable_ms_median"
_PANELS = 6
_NAMED = 14  # with more points only those on the front are named


def panels(groups: Sequence[Group]) -> list[Group]:
    """Groups with two runs at least that have both numbers, by frames; of many those that come first in a report."""
    shown = [group for group in groups if group.number and len(_points(group)) > 1][:_PANELS]
    return sorted(shown, key=lambda group: (_frames(group), group.number))


def _frames(group: Group) -> int:
    """Frames of a scene, the mean where scenes differ."""
    row = group.ok[0]
    return round((row["frames"] or 0) / (row["scenes"] or 1))


def _points(group: Group) -> list[tuple[float, float, Row]]:
    """Milliseconds, AUC@30 and the row of every run that was timed with its own kernels."""
    rows = [row for row in group.ok if is_timed(row) or is_reference(row)]
    return [(row[MS], row[AUC], row) for row in rows if row[MS] is not None and row.get(AUC) is not None]


def draw(groups: Sequence[Group], t: Translate) -> Any:
    """The figure, one panel for each of `panels`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(6.3 * columns, 5.2 * lines + 0.4), dpi=110, layout=engine)
    FigureCanvasAgg(figure)
    models = dict.fromkeys(str(group.first("model")) for group in groups)
    hardware = dict.fromkeys(str(group.first("hardware") or group.first("device")) for group in groups)
    figure.suptitle(literal(f"{t('chart.accuracy_time')} · {', '.join(models)} · {', '.join(hardware)}"))
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, group in zip(axes, groups, strict=False):
        _panel(axis, group, t)
    for axis in list(axes)[len(groups) :]:
        axis.set_axis_off()
    return figure


def _panel(axis: Any, group: Group, t: Translate) -> None:
    points = _points(group)
    axis.grid(color="#D8D8D8", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel(t("axis.auc_30"))
    front = pareto_front([(-ms, -auc) for ms, auc, _ in points])[::-1]
    best = [
        points[i][:2] for i in front
    ]  # within a time, the best of all that take no longer: steps, not slopes
    axis.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=1.2, zorder=2)
    for quantized, colour, name in ((False, BLUE, "float_weights"), (True, ORANGE, "quantized_weights")):
        members = [(ms, auc) for ms, auc, row in points if bool(row["quantized_layers"]) is quantized]
        if members:
            axis.scatter(*zip(*members, strict=True), s=44, color=colour, label=t(name), zorder=4)
    axis.set_xlim(0, 1.15 * max(ms for ms, _, _ in points))
    axis.margins(y=0.15)
    about = t(
        "panel.images", frames=_frames(group), scenes=group.first("scenes"), dataset=group.first("dataset")
    )
    finish(axis, literal(about), t("axis.ms_frames"), columns=2)
    named = range(len(points)) if len(points) <= _NAMED else front
    marks = [(ms, auc) for ms, auc, _ in points]
    name_points(axis, marks, [(marks[i], short_name(points[i][2]["title"], 22)) for i in named])
