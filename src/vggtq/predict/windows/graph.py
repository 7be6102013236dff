"""The pose graph over windows: the places of all windows that agree best with the measured relations between
pairs of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix
from scipy.spatial.transform import Rotation

from vggtq.predict.windows.similarity import Similarity

SIZE = 7  # log scale, rotation vector, translation
SOFT = 3.0  # residuals beyond so many standard deviations count less than their squares
LOSSES = (
    "soft_l1",
    "cauchy",
)  # one after the other: from where most agree, the second lets go of what does not
ROUNDS = 50  # of each; a graph that still moves then moves by little
LEAST_ERROR = 0.002  # no edge is known better: radians, parts of the scale, and of the depth


@dataclass(frozen=True)
class Edge:
    """The relation of window `second` to window `first`, as measured. moved: the world of `second` to that of
    `first`.

    depth: the depth of points in the world of `first`, in its unit. error: the median distance of the same
    points, in parts of that depth.
    """

    first: int
    second: int
    moved: Similarity
    depth: float
    error: float


def solve(start: Sequence[Similarity], edges: Sequence[Edge]) -> list[Similarity]:
    """The worlds of all windows in that of the first, from a start.

    Least squares with robust losses on every residual; an edge is trusted as far as its points agree.
    """
    if len(start) < 2 or len(edges) < len(start):  # a chain has nothing to agree on
        return list(start)
    graph = _Graph(edges)
    numbers = np.concatenate([_numbers(world) for world in start])
    fixed, free = numbers[:SIZE], numbers[SIZE:]
    sparsity = graph.sparsity(len(start))[:, SIZE:]
    for loss in LOSSES:
        free = least_squares(
            lambda moving: graph.residuals(np.concatenate([fixed, moving])),
            free,
            jac_sparsity=sparsity,
            x_scale="jac",
            loss=loss,
            f_scale=SOFT,
            max_nfev=ROUNDS,
        ).x
    rows = np.concatenate([fixed, free]).reshape(-1, SIZE)
    return [
        Similarity(float(np.exp(row[0])), Rotation.from_rotvec(row[1:4]).as_matrix(), row[4:]) for row in rows
    ]


def _numbers(world: Similarity) -> NDArray[np.float64]:
    turned = Rotation.from_matrix(world.rotation).as_rotvec()
    return np.concatenate([[np.log(world.scale)], turned, world.translation])


class _Graph:
    """The residuals of all edges, as arrays."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self._first = np.array([edge.first for edge in edges])
        self._second = np.array([edge.second for edge in edges])
        self._scale = np.log([edge.moved.scale for edge in edges])
        self._back = Rotation.from_matrix(np.stack([edge.moved.rotation for edge in edges])).inv()
        self._shift = np.stack([edge.moved.translation for edge in edges])
        self._depth = np.array([edge.depth for edge in edges])[:, None]
        self._sigma = np.array([max(edge.error, LEAST_ERROR) for edge in edges])[:, None]

    def residuals(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """(7 · edges,): each edge against first⁻¹ · second, in its standard deviations."""
        rows = numbers.reshape(-1, SIZE)
        first, second = rows[self._first], rows[self._second]
        into = Rotation.from_rotvec(first[:, 1:4]).inv()
        scale = second[:, 0] - first[:, 0] - self._scale
        turn = (self._back * into * Rotation.from_rotvec(second[:, 1:4])).as_rotvec()
        shift = into.apply(second[:, 4:] - first[:, 4:]) / np.exp(first[:, :1]) - self._shift
        parts = np.concatenate([scale[:, None], turn, shift / self._depth], axis=1)
        return (parts / self._sigma).ravel()

    def sparsity(self, worlds: int) -> lil_matrix:
        """The numbers that each residual depends on, as a sparse matrix."""
        matrix = lil_matrix((SIZE * len(self._first), SIZE * worlds), dtype=np.int8)
        for edge, ends in enumerate(zip(self._first, self._second, strict=True)):
            for world in ends:
                matrix[SIZE * edge : SIZE * (edge + 1), SIZE * world : SIZE * (world + 1)] = 1
        return matrix
