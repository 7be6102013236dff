"""Point maps against ground truth: accuracy, completeness and normal consistency after a similarity alignment.

The protocol of VGGT (Wang et al., CVPR 2025, §4.3) and π³: Umeyama (1991) on corresponding pixels, optionally refined by
point-to-point ICP (Besl and McKay 1992); accuracy = distance from each predicted point to the nearest true one, completeness
= the other way round. Only pixels where the FP32 model is confident count, for every variant of it: with a mask of its own, a
variant would choose the pixels that it is judged by.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.transform import SimilarityTransform
from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.geometry import unproject_depth

CONFIDENT_SHARE = 0.8  # of a scene's pixels, the most confident ones of the FP32 model
MAX_POINTS = 20_000  # of a scene, on a regular grid; nearest neighbours of more change the third digit only
ICP_THRESHOLD = 0.1  # scene units
ICP_ROUNDS = 20
MIN_POINTS = 10

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cloud:
    """N points with unit normals (NaN where a neighbour is missing), float64, (N, 3) each."""

    points: Array
    normals: Array


def true_points(truth: GroundTruth) -> Tensor | None:
    """World points (S, H, W, 3) float64 from depth and cameras, NaN where there is no depth; None if either is unknown."""
    if truth.depth is None or truth.extrinsics is None or truth.intrinsics is None:
        return None
    return unproject_depth(truth.depth.double(), truth.extrinsics.double(), truth.intrinsics.double())


def confident(confidence: Tensor) -> Tensor:
    """Pixels (S, H, W) among the CONFIDENT_SHARE most confident of the scene."""
    ordered = confidence.flatten().double().sort().values
    return confidence.double() >= ordered[int((1 - CONFIDENT_SHARE) * len(ordered))]


def point_metrics(
    predicted: Tensor, truth: Tensor, mask: Tensor, icp: bool = False
) -> dict[str, float | int | bool]:
    """Errors in scene units, and relative to the scene's scale (mean distance of the true points from their centre).

    predicted, truth: (S, H, W, 3), truth NaN where unknown; mask: (S, H, W) bool. Returns accuracy, completeness (mean and
    _median), overall (mean of the two means), normal_consistency (mean |cos| with the nearest true normal, both ways),
    relative_error_median (median error of corresponding points over the scale), points, icp. Undefined with fewer than
    MIN_POINTS valid pixels: NaN. A prediction that is not finite there, or collapses to a point, scores infinite errors.
    """
    valid = mask & truth.isfinite().all(-1)
    count = int(valid.sum())
    if count < MIN_POINTS:
        return _constant(float("nan"), count, icp)
    if not predicted[valid].isfinite().all():
        return _constant(float("inf"), count, icp)
    chosen = _thinned(valid.cpu().numpy())
    source = _cloud(predicted.double().cpu().numpy(), chosen)
    target = _cloud(truth.double().cpu().numpy(), chosen)
    aligned = _align(source, target)
    if aligned is None:
        return _constant(float("inf"), count, icp)
    scale = float(np.linalg.norm(target.points - target.points.mean(0), axis=1).mean())
    error = float(np.median(np.linalg.norm(aligned.points - target.points, axis=1))) / scale
    if icp:
        aligned = _icp(aligned, target)
    return _scores(aligned, target) | {"relative_error_median": error, "points": count, "icp": icp}


def _scores(predicted: Cloud, truth: Cloud) -> dict[str, float | int | bool]:
    to_truth, nearest_true = cKDTree(truth.points).query(predicted.points)
    to_predicted, nearest_predicted = cKDTree(predicted.points).query(truth.points)
    cosines = [
        *np.abs((predicted.normals * truth.normals[nearest_true]).sum(1)),
        *np.abs((truth.normals * predicted.normals[nearest_predicted]).sum(1)),
    ]
    known = np.isfinite(cosines)
    return {
        "accuracy": float(to_truth.mean()),
        "accuracy_median": float(np.median(to_truth)),
        "completeness": float(to_predicted.mean()),
        "completeness_median": float(np.median(to_predicted)),
        "overall": float((to_truth.mean() + to_predicted.mean()) / 2),
        "normal_consistency": float(np.mean(np.asarray(cosines)[known])) if known.any() else float("nan"),
    }


def _constant(value: float, count: int, icp: bool) -> dict[str, float | int | bool]:
    names = (
        "accuracy",
        "accuracy_median",
        "completeness",
        "completeness_median",
        "overall",
        "relative_error_median",
    )
    # A failed prediction has no normals to agree with: 0, the worst value, so that it cannot drop out of a mean.
    consistency = 0.0 if value == float("inf") else value
    return dict.fromkeys(names, value) | {"normal_consistency": consistency, "points": count, "icp": icp}


def _thinned(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """At most about MAX_POINTS pixels, on the same regular grid in every frame."""
    step = max(1, int(np.ceil(np.sqrt(valid.sum() / MAX_POINTS))))
    grid = np.zeros_like(valid)
    grid[:, ::step, ::step] = True
    return valid & grid


def _cloud(points: Array, chosen: NDArray[np.bool_]) -> Cloud:
    """The chosen pixels of a point map (S, H, W, 3); normals from the cross product of its central differences."""
    across, down = np.full_like(points, np.nan), np.full_like(points, np.nan)
    across[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    down[:, 1:-1] = points[:, 2:] - points[:, :-2]
    normals = np.cross(across, down)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return Cloud(points[chosen], normals[chosen])


def _align(source: Cloud, target: Cloud) -> Cloud | None:
    """Source under the similarity that best maps it onto its corresponding target points; None if there is none."""
    transform = SimilarityTransform.from_estimate(source.points, target.points)
    if not transform or not np.isfinite(transform.params).all() or transform.scale < 1e-12:
        return None
    return _moved(source, transform.params)


def _icp(source: Cloud, target: Cloud) -> Cloud:
    """Rigid point-to-point ICP on pairs closer than ICP_THRESHOLD; stops when nothing moves any more."""
    from skimage.transform import EuclideanTransform

    tree = cKDTree(target.points)
    for _ in range(ICP_ROUNDS):
        distance, nearest = tree.query(source.points, distance_upper_bound=ICP_THRESHOLD)
        close = np.isfinite(distance)
        if close.sum() < MIN_POINTS:
            return source
        step = EuclideanTransform.from_estimate(source.points[close], target.points[nearest[close]])
        if not step or not np.isfinite(step.params).all():
            return source
        source = _moved(source, step.params)
        if np.abs(step.params - np.eye(4)).max() < 1e-7:
            break
    return source


def _moved(cloud: Cloud, matrix: Array) -> Cloud:
    linear = matrix[:3, :3]
    rotation = linear / np.cbrt(np.linalg.det(linear))
    return Cloud(cloud.points @ linear.T + matrix[:3, 3], cloud.normals @ rotation.T)
