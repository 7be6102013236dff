"""Error against compression with the Pareto front: who is beaten on both, and who is not.

Runs of one family, which differ in bits or in the budget for them, are joined by a line where there are three or more.
"""

from collections.abc import Sequence
from typing import Any

from vggtq.report.charts.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, finish, log_axis, short_name
from vggtq.report.rows.recommend import pareto_front
from vggtq.report.rows.row import Row
from vggtq.report.words.texts import Translate

_ALL_NAMED = 10  # with more rows only those on the front are named, and of these no more
_NAME_SIZE = 8  # points
_SINGLE = 400  # with more beaten points their density is drawn
_ANGLES = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0))
_DISTANCES = (10, 18, 28, 44, 62, 84)  # points
_CURVES = ((ORANGE, "-"), (GREEN, "-"), (PINK, "--"), (RED, "--"))
Point = tuple[float, float]
_CURVE_RUNS = 3  # two points would join whatever happens to be measured twice


def draw_pareto(axis: Any, rows: Sequence[Row], t: Translate) -> None:
    points = [
        (row["compression_vs_fp32"], row["mean_relative_error"], row["title"])
        for row in rows
        if row["compression_vs_fp32"] is not None and row["mean_relative_error"] is not None
    ]
    curves = families(rows)
    axis.grid(color="#D8D8D8", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel(t("axis.mean_error"))
    if not points:
        axis.text(0.5, 0.5, t("no_data"), transform=axis.transAxes, ha="center", color="#666666")
        finish(axis, t("chart.pareto"), t("axis.compression"))
        return
    zero = log_axis(axis, [error for _, error, _ in points], "y")
    shown = [(compression, error or zero) for compression, error, _ in points]
    front = pareto_front([(compression, error) for compression, error, _ in points])
    on_front = set(front)
    others = [i for i in range(len(points)) if i not in on_front]
    for (name, curve), (colour, style) in zip(curves, _CURVES, strict=False):
        xs, ys = zip(*((x, error or zero) for x, error in curve), strict=True)
        axis.plot(xs, ys, style, color=colour, linewidth=1.6, label=short_name(name, 48), zorder=2.5)
    if others:
        xs, ys = zip(*(shown[i] for i in others), strict=True)
        if len(others) > _SINGLE:
            _density(axis, xs, ys, t("others", n=len(others)))
            log_axis(axis, [error for _, error, _ in points], "y")  # the density has put back plain ticks
        else:
            axis.scatter(xs, ys, s=36, facecolor="white", edgecolor=GREY, label=t("dominated"), zorder=3)
    xs, ys = zip(*(shown[i] for i in front), strict=True)
    # a compression between two points requires the next point and its error, so the line has steps, not slopes
    axis.step(xs, ys, where="pre", color=BLUE, linewidth=1.2, zorder=2)
    axis.scatter(xs, ys, s=48, color=BLUE, label=t("front"), zorder=4)
    axis.set_xlim(left=0, right=max(compression for compression, _ in shown) * 1.2)
    finish(axis, t("chart.pareto"), t("axis.compression"), columns=2)
    if len(points) > _ALL_NAMED:
        step = -(-len(front) // _ALL_NAMED)
        named = front[::step]
    else:
        named = front + others
    marks = [shown[i] for i in (front if len(others) > _SINGLE else range(len(shown)))]
    name_points(axis, marks, [(shown[i], short_name(points[i][2], 18)) for i in named])


def _density(axis: Any, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
    """Draws the number of points in each part of the plane: single points would cover each other."""
    bins: dict[str, Any] = {"gridsize": (50, 32), "yscale": "log", "bins": "log", "mincnt": 1}
    axis.hexbin(xs, ys, **bins, cmap="Greys", vmin=0.3, linewidths=0.1, zorder=1)
    axis.scatter([], [], marker="h", s=60, color="#A0A0A0", label=label)


def families(rows: Sequence[Row]) -> list[tuple[str, list[Point]]]:
    """Name and (compression, error) by rising compression of every family that is a curve, the longest first."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        at, error = row["compression_vs_fp32"], row["mean_relative_error"]
        if row["family"] and at is not None and error is not None:
            curve = found.setdefault(row["family"], {})
            curve[at] = min(error, curve.get(at, error))
    curves = [(name, sorted(curve.items())) for name, curve in found.items() if len(curve) >= _CURVE_RUNS]
    return sorted(curves, key=lambda curve: (-len(curve[1]), curve[0]))[: len(_CURVES)]


def name_points(axis: Any, marks: Sequence[Point], names: Sequence[tuple[Point, str]]) -> None:
    """Put each name at the nearest place around its point that is free of marks; a name without one is left out."""
    figure = axis.figure
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # names are placed in pixels, so the layout must not change from now on
    taken = [_around(axis.transData.transform(point)) for point in marks]
    places = [(dx * d, dy * d) for d in _DISTANCES for dx, dy in _ANGLES]
    for point, name in names:
        size = _size_of(axis, name)
        # a line through a neighbour's point would seem to name that one, yet is better than no name
        clear = [place for place in places if not _crosses(axis, point, place, taken)]
        for place in (*clear, *(place for place in places if place not in clear)):
            if box := _write(axis, point, place, name, size, taken):
                taken.append(box)
                break


def _crosses(axis: Any, point: tuple[float, float], place: tuple[float, float], taken: Sequence[Any]) -> bool:
    """Whether the line from `point` to the name at `place` runs through another point or name."""
    from matplotlib.path import Path

    start = axis.transData.transform(point)
    line = Path([start, start + [offset * axis.figure.dpi / 72 for offset in place]])
    return any(line.intersects_bbox(box, filled=False) for box in taken if not box.contains(*start))


def _write(
    axis: Any,
    point: tuple[float, float],
    place: tuple[float, float],
    name: str,
    size: Any,
    taken: Sequence[Any],
) -> Any:
    """Write `name` at `place`, in points from `point`, and return its box; None, and nothing, where it does not fit.

    size: of the name, in pixels.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    (dx, dy), frame = place, axis.get_window_extent()
    corner = [  # of the name, in pixels: it lies beyond its anchor, seen from the point
        end + offset * axis.figure.dpi / 72 - (0 if offset > 0 else length if offset < 0 else length / 2)
        for end, offset, length in zip(axis.transData.transform(point), place, size, strict=True)
    ]
    box = Bbox.from_bounds(*corner, *size).padded(1)
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    if not inside or any(box.overlaps(other) for other in taken):
        return None
    axis.annotate(
        name,
        point,
        place,
        textcoords="offset points",
        fontsize=_NAME_SIZE,
        ha={1: "left", 0: "center", -1: "right"}[(dx > 0) - (dx < 0)],
        va={1: "bottom", 0: "center", -1: "top"}[(dy > 0) - (dy < 0)],
        # Always a line: where points crowd, the nearest name may be a neighbour's.
        arrowprops={"arrowstyle": "-", "color": "black", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white")],  # read also where it lies on the density
    )
    return box


def _size_of(axis: Any, name: str) -> tuple[float, float]:
    """Width and height of a name in pixels."""
    text = axis.text(0, 0, name, fontsize=_NAME_SIZE)
    box = text.get_window_extent(axis.figure.canvas.get_renderer())
    text.remove()
    return box.width, box.height


def _around(pixel: Sequence[float], radius: float = 6.0) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox([[pixel[0] - radius, pixel[1] - radius], [pixel[0] + radius, pixel[1] + radius]])
