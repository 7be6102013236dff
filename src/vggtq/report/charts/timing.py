"""Latency and speed-up with their quartiles, a line for each run; hatched or hollow where kernels were simulated."""

from collections.abc import Sequence
from typing import Any

from vggtq.report.charts.style import BLUE, GREY, ORANGE, finish, note, room, value_at
from vggtq.report.rows.recommend import is_reference, is_timed
from vggtq.report.rows.row import Row
from vggtq.report.rows.times import common_times
from vggtq.report.words.texts import Translate

_HATCHED = {"facecolor": "white", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0.8}


def draw_latency(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    """Milliseconds of each run as its ratio makes them of one FP32 time, which is a line through all."""
    name = "fp32.comparable_ms"
    # A machine that was busy for a moment must not press all bars flat: longer whiskers end there, in a number.
    limit = 1.5 * max((row[f"{name}_median"] or 0 for row in rows), default=0)
    timed = [(y, row) for y, row in enumerate(rows) if row[f"{name}_median"] is not None]
    real = [(y, row) for y, row in timed if is_timed(row) or is_reference(row)]
    simulated = [(y, row) for y, row in timed if (y, row) not in real]
    kinds: list[tuple[list[tuple[int, Row]], str, dict[str, Any]]] = [
        (real, t("measured"), {"color": ORANGE}),
        (simulated, t("simulated"), _HATCHED),
    ]
    largest = common_times([row for _, row in timed])
    for members, label, style in kinds:
        if members:
            ys = [float(y) for y, _ in members]
            largest += _timed_bars(axis, ys, [row for _, row in members], name, limit, label, style)
    for ms in common_times([row for _, row in timed]):
        axis.axvline(ms, color="black", linewidth=0.9, linestyle="--", label=f"FP32, {_milliseconds(ms)} ms")
    for y in sorted(set(range(len(rows))) - {y for y, _ in timed}):
        note(axis, y, t("no_data"))
    room(axis, largest)
    finish(axis, t("chart.latency"), t("axis.ms"), columns=3)


def _timed_bars(
    axis: Any,
    ys: Sequence[float],
    rows: Sequence[Row],
    name: str,
    limit: float,
    label: str,
    style: dict[str, Any],
) -> list[float]:
    """Medians as bars with their quartiles, none longer than `limit`; returns how far each reaches."""
    medians = [row[f"{name}_median"] for row in rows]
    ends = ([row[f"{name}_{end}"] for row in rows] for end in ("q25", "q75"))
    low, high = ([m if q is None else q for m, q in zip(medians, own, strict=True)] for own in ends)
    reach = [min(value, limit) for value in high]
    axis.barh(ys, medians, 0.62, label=label, **style)
    spread = [[max(m - q, 0) for m, q in zip(medians, low, strict=True)],
              [max(r - m, 0) for m, r in zip(medians, reach, strict=True)]]  # fmt: skip
    axis.errorbar(medians, ys, xerr=spread, color="black", linestyle="none", linewidth=0.9, capsize=1.8)
    for y, median, q75, at in zip(ys, medians, high, reach, strict=True):
        beyond = f" (… {_milliseconds(q75)})" if q75 > limit else ""
        value_at(axis, at, y, _milliseconds(median) + beyond)
    return reach


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def draw_speedup(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    highest = [1.2]
    for real in (True, False):
        members = [(y, row) for y, row in enumerate(rows) if row["fp32.speedup"] and is_timed(row) is real]
        points = [(y, *_quartiles(row)) for y, row in members]
        if not points:
            continue
        ys, low, values, high = zip(*points, strict=True)
        spread = [[max(v - end, 0) for v, end in zip(values, low, strict=True)],
                  [max(end - v, 0) for v, end in zip(values, high, strict=True)]]  # fmt: skip
        colour, label = (BLUE, "measured") if real else (GREY, "simulated")
        axis.errorbar(values, ys, xerr=spread, fmt="o", color=colour, markerfacecolor=colour if real else "white",
                      linestyle="none", capsize=3, markersize=7, label=t(label))  # fmt: skip
        for y, least, value, most in points:
            words = f"{value:.2f}×" + ("" if real else f" ({t('simulated')})")
            slower = value < 1  # its number stands at the left, off the line at 1.0
            value_at(axis, min(least, value) if slower else max(most, value), y, words, left=slower)
            highest.append(max(most, value))
    for y, row in enumerate(rows):
        if not row["fp32.speedup"]:
            note(axis, y, t("no_data"))
    axis.axvline(1.0, color="black", linewidth=0.9, linestyle="--")
    room(axis, highest, 0.3)
    finish(axis, t("chart.speedup"), t("axis.speedup"), columns=2)


def _quartiles(row: Row) -> tuple[float, float, float]:
    """(low, median, high); a quartile that is unknown is where the median is."""
    value = row["fp32.speedup"]
    low, high = (row[f"fp32.speedup_{end}"] for end in ("q25", "q75"))
    return value if low is None else low, value, value if high is None else high
