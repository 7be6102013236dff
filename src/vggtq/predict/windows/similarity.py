"""Sim(3): rotation, translation and scale between two worlds that show the same points."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROUNDS = 20  # of reweighting
SETTLED = 1e-9  # change of a round, relative, that ends them
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Similarity:
    """x ↦ scale · rotation x + translation. rotation (3, 3), translation (3,)."""

    scale: float
    rotation: Array
    translation: Array

    @classmethod
    def identity(cls) -> "Similarity":
        """Moves nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def __matmul__(self, other: "Similarity") -> "Similarity":
        """First the other, then this one."""
        moved = self.scale * self.rotation @ other.translation + self.translation
        return Similarity(self.scale * other.scale, self.rotation @ other.rotation, moved)

    def inverse(self) -> "Similarity":
        """The way back."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.translation) / self.scale)

    def points(self, points: NDArray[np.floating]) -> Array:
        """(…, 3) moved."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    def cameras(self, extrinsics: Array) -> Array:
        """(S, 3, 4), world to camera, of the same cameras in the moved world, where depth is `scale` times as large."""
        rotations = extrinsics[:, :, :3] @ self.rotation.T
        moved = self.scale * extrinsics[:, :, 3] - rotations @ self.translation
        return np.concatenate([rotations, moved[:, :, None]], axis=-1)


def umeyama(source: Array, target: Array, weights: Array) -> Similarity:
    """The similarity with the least weighted sum of squared distances (Umeyama 1991). source, target: (n, 3)."""
    weights = weights / weights.sum()
    mean_source, mean_target = weights @ source, weights @ target
    centred_source, centred_target = source - mean_source, target - mean_target
    u, stretch, vt = np.linalg.svd((weights[:, None] * centred_target).T @ centred_source)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    variance = weights @ (centred_source**2).sum(1)
    scale = float((stretch * signs).sum() / variance)
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def robust(source: Array, target: Array, weights: Array) -> tuple[Similarity, float]:
    """The similarity that most points agree on, and the weighted median distance that it leaves, in units of target.

    Iteratively reweighted least squares with Cauchy's weights (Holland and Welsch 1977); their width is the median distance.
    Raises ValueError for fewer than three points, or points at one place.
    """
    if len(source) < 3 or not np.ptp(source, axis=0).any():
        raise ValueError("three points at different places are needed")
    trusted, found, error = np.ones_like(weights), Similarity.identity(), np.inf
    for _ in range(ROUNDS):
        found = umeyama(source, target, weights * trusted)
        distances = np.linalg.norm(found.points(source) - target, axis=1)
        before, error = error, weighted_median(distances, weights)
        if abs(before - error) <= SETTLED * error:
            break
        width = max(MAD_TO_SIGMA * error, np.finfo(np.float64).tiny)
        trusted = 1 / (1 + (distances / width) ** 2)
    return found, error


def weighted_median(values: Array, weights: Array) -> float:
    """Half of the weights belong to values that are no larger."""
    order = np.argsort(values)
    shares = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(shares, shares[-1] / 2)]])
