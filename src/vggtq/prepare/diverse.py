"""Selects calibration samples from many candidates: no outliers, and as different from each other as possible.

Noise-filtered diverse sampling as in QuantVGGT (Feng et al. 2025, arXiv 2509.21302), on the network's own features: candidates
whose distance to their nearest neighbours is out of the ordinary (robust z-score of Iglewicz and Hoaglin 1993, above 3.5) are
left out, the others fall into as many clusters as there are samples (k-means++), and the candidate nearest to each centre is
taken. Left out: labels, and a treatment of its own for the first frame.
"""

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 3
LIMIT = 3.5
NORMAL = 0.6745  # median absolute deviation of the normal distribution with deviation 1


@dataclass(frozen=True)
class Selection:
    """Indices of candidates. outliers: those that were left out before."""

    chosen: list[int]
    outliers: list[int]


def diverse(features: np.ndarray, count: int, seed: int) -> Selection:
    """features: (N, D), one row per candidate; the same again for the same seed."""
    from scipy.cluster.vq import kmeans2  # half a second, and few runs choose among candidates
    from scipy.spatial.distance import cdist

    scaled = features - features.mean(0)
    deviation = scaled.std(0)
    scaled = (scaled / np.where(deviation > 0, deviation, 1)).astype(np.float64)
    usable = [i for i in range(len(features)) if i not in (found := outliers(scaled, len(features) - count))]
    if len(usable) <= count:
        return Selection(usable, found)
    centres, _ = kmeans2(scaled[usable], count, minit="++", seed=np.random.default_rng(seed), missing="warn")
    distance = cdist(centres, scaled[usable])
    chosen: list[int] = []
    # An empty cluster has no candidate of its own: it gets the nearest one that is left.
    for row in distance:
        row[chosen] = np.inf
        chosen.append(int(np.argmin(row)))
    return Selection(sorted(usable[i] for i in chosen), found)


def outliers(features: np.ndarray, at_most: int) -> list[int]:
    """The candidates that lie alone, the loneliest first. features: (N, D)."""
    from scipy.spatial.distance import cdist

    neighbours = min(NEIGHBOURS, len(features) - 1)
    if neighbours < 1 or at_most < 1:
        return []
    distance = np.sort(cdist(features, features), axis=1)[:, 1 : neighbours + 1].mean(1)
    middle = np.median(distance)
    spread = np.median(np.abs(distance - middle))
    score = NORMAL * (distance - middle) / spread if spread > 0 else np.zeros_like(distance)
    return [int(i) for i in np.argsort(-score)[:at_most] if score[i] > LIMIT]
