"""One world from windows: neighbours are aligned on the images that they share, then all of them by a pose graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vggtq.predict.windows.graph import Edge, solve
from vggtq.predict.windows.layout import Layout
from vggtq.predict.windows.similarity import Similarity, robust, weighted_median

MOST_POINTS = 5_000  # of one pair of windows
DOUBTFUL = 0.2  # median distance of the same points, in parts of their depth, beyond which a loop is no loop


Grid = tuple[NDArray[np.floating], NDArray[np.floating]]


class Look(Protocol):
    """The prediction of one window. extrinsics (n, 3, 4); pixels: of one image."""

    extrinsics: NDArray[np.float64]
    pixels: int

    def grid(self, places: Sequence[int], step: int) -> Grid:
        """Of some images of the window, every step-th row and column: points (n, h, w, 3) in its own world and confidence
        (n, h, w); NaN: nothing.
        """
        ...


class View:
    """A `Look` in memory. extrinsics (n, 3, 4); points (n, H, W, 3); confidence (n, H, W)."""

    def __init__(
        self,
        extrinsics: NDArray[np.float64],
        points: NDArray[np.floating],
        confidence: NDArray[np.floating],
    ) -> None:
        self.extrinsics, self.points, self.confidence = extrinsics, points, confidence
        self.pixels = confidence[0].size

    def grid(self, places: Sequence[int], step: int) -> Grid:
        """See `Look`."""
        chosen, grid = list(places), np.s_[:, ::step, ::step]
        return self.points[chosen][grid], self.confidence[chosen][grid]


@dataclass(frozen=True)
class Alignment:
    """worlds: of each window in that of the first one, loops included; left_out: loops that were no loops."""

    worlds: list[Similarity]
    edges: list[Edge]
    left_out: int

    def described(self) -> dict[str, Any]:
        """For the index: errors are medians of distances between the same points, in parts of their depth."""
        errors = [edge.error for edge in self.edges]
        scales = [world.scale for world in self.worlds]
        return {
            "median_error": float(np.median(errors)) if errors else None,
            "largest_error": max(errors, default=None),
            "scales": [min(scales), max(scales)],
            "loops_left_out": self.left_out,
        }


class AlignmentError(ValueError):
    """Two neighbouring windows share no usable point."""


def align(layout: Layout, view: Callable[[int], Look], graph: bool = True) -> Alignment:
    """The worlds of all windows. view: of a window, called a few times for each. graph: else neighbours in a row alone.

    Raises AlignmentError with the numbers of two neighbours that nothing can align.
    """
    worlds: list[Similarity | None] = [Similarity.identity(), *[None] * (len(layout.windows) - 1)]
    edges, refused = list[Edge](), set[int]()
    for first, second in layout.pairs():
        loop = second >= layout.along
        if loop and not graph:
            break
        edge = _edge(layout, first, second, view)
        if edge is None and not loop:
            raise AlignmentError(f"windows {first} and {second}")
        if edge is None or (loop and edge.error > DOUBTFUL):
            refused.add(second)
            continue
        edges.append(edge)
        start = worlds[first]
        if start is not None and worlds[second] is None:
            worlds[second] = start @ edge.moved
    return _solved(layout, worlds, edges, refused, graph)


def _solved(
    layout: Layout, worlds: list[Similarity | None], edges: list[Edge], refused: set[int], graph: bool
) -> Alignment:
    """Without the loops that were refused. A loop that holds on to one window alone says nothing."""
    held = [number for number, world in enumerate(worlds) if world is not None and number not in refused]
    places = {number: place for place, number in enumerate(held)}
    kept = [edge for edge in edges if edge.second in places]
    chain = [world for number in held if (world := worlds[number]) is not None]
    moved = [Edge(places[e.first], places[e.second], e.moved, e.depth, e.error) for e in kept]
    found = solve(chain, moved) if graph else chain
    return Alignment(found[: layout.along], kept, len(refused))


def _edge(layout: Layout, first: int, second: int, view: Callable[[int], Look]) -> Edge | None:
    """From the points of the images that both saw, weighted by both confidences; None where there are too few."""
    here, there = layout.windows[first], layout.windows[second]
    shared = [image for image in here if image in set(there)]
    a, b = view(first), view(second)
    ours, theirs = [here.index(image) for image in shared], [there.index(image) for image in shared]
    step = max(1, round((len(shared) * a.pixels / MOST_POINTS) ** 0.5))
    target, trusted = a.grid(ours, step)
    source, trusted_there = b.grid(theirs, step)
    weights = np.sqrt(trusted * trusted_there.astype(np.float64))
    usable = np.isfinite(target).all(-1) & np.isfinite(source).all(-1) & np.isfinite(weights) & (weights > 0)
    if usable.sum() < 3:
        return None
    ranges = np.linalg.norm(target - centres(a.extrinsics[ours])[:, None, None], axis=-1)
    source, target, weights, ranges = (
        array[usable].astype(np.float64) for array in (source, target, weights, ranges)
    )
    try:
        moved, error = robust(source, target, weights)
    except ValueError:
        return None
    depth = max(weighted_median(ranges, weights), np.finfo(np.float64).tiny)
    return Edge(first, second, moved, depth, error / depth)


def centres(extrinsics: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) of cameras."""
    return np.asarray(-np.einsum("nji,nj->ni", extrinsics[:, :, :3], extrinsics[:, :, 3]))
