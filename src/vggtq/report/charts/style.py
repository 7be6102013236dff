"""The common style of all charts: colours, names, legends, the log axis that has a place for 0."""

import textwrap
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any

from vggtq.machine.fonts import legible

# Okabe and Ito's palette, which colour-blind readers can distinguish
BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#8C8C8C",
)


def literal(name: str) -> str:
    """`name` as matplotlib prints it: a dollar sign would start a formula, and a character that no font has
    would be a box.
    """
    return legible(name).replace("$", r"\$")


def short_name(title: str, width: int = 24) -> str:
    """`title` in at most two lines, the end cut where it does not fit."""
    return literal("\n".join(textwrap.wrap(title, width, max_lines=2, placeholder="…")) or "?")


def finish(axis: Any, title: str, label: str, columns: int = 0) -> None:
    """Title, axis label and, between title and data, the legend."""
    handles, _ = axis.get_legend_handles_labels()
    lines = -(-len(handles) // columns) if columns else 0
    weight = (
        "bold" if title.isascii() else "normal"
    )  # few Chinese fonts are bold, and half a bold title looks broken
    axis.set_title(title, fontweight=weight, fontsize=11, loc="left", pad=8 + 15 * lines)
    axis.set_xlabel(label)
    if lines:
        place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.1}
        axis.legend(ncols=columns, frameon=False, fontsize=8, handletextpad=0.4, columnspacing=1.0, **place)


def note(axis: Any, y: float, words: str) -> None:
    axis.annotate(words, (0, y), (4, 0), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
                  va="center", fontsize=8, color="#666666", style="italic")  # fmt: skip


def value_at(axis: Any, x: float, y: float, words: str, left: bool = False) -> None:
    offset, side = ((-4, 0), "right") if left else ((4, 0), "left")
    axis.annotate(words, (x, y), offset, textcoords="offset points", va="center", ha=side, fontsize=8)


def room(axis: Any, values: Sequence[float], share: float = 0.22) -> None:
    """Start at 0 and leave room at the right for the numbers behind the bars."""
    axis.set_xlim(0, max(values, default=1.0) * (1 + share) or 1.0)


def log_axis(axis: Any, values: Sequence[float | None], which: str = "x") -> float:
    """Make one axis logarithmic and return where it shows 0: a decade below the smallest error, marked `0`."""
    from matplotlib.ticker import NullLocator

    positive = [value for value in values if value]
    low, high = (floor(log10(min(positive))), ceil(log10(max(positive)))) if positive else (-4, 0)
    zero = 10.0 ** (low - 1)
    has_zero = any(value == 0 for value in values)
    step = max(1, (high - low) // 6)
    decades = list(range(low, high + 1, step))
    ticks, names = [10.0**d for d in decades], [f"$10^{{{d}}}$" for d in decades]
    if has_zero:
        ticks, names = [zero, *ticks], ["0", *names]
    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}ticks")(ticks, names)
    getattr(axis, f"{which}axis").set_minor_locator(NullLocator())
    getattr(axis, f"set_{which}lim")(
        (zero if has_zero else 10.0**low) * 0.6, 10.0 ** max(high, low + 1) * 1.6
    )
    return zero
