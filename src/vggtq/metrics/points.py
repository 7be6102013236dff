"""Point maps against ground truth: accuracy, completeness and normal consistency after a similarity alignment.

The protocol of VGGT (Wang et al., CVPR 2025, §4.3) and π³: Umeyama (1991) on corresponding pixels, optionally refined by
point-to-point ICP (Besl and McKay 1992); accuracy = distance from each predicted point to the nearest true one, completeness
= the other way round. Only pixels where the FP32 model is confident count, for every variant of it: with a mask of its own, a
variant would choose the pixels that it is judged by. `vggtq.metrics.point_options` says what else protocols differ in.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform
from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.geometry import unproject_depth
from vggtq.metrics.point_options import CONFIDENT_SHARE, Points
from vggtq.metrics.table import metrics

NEIGHBOURS = 30  # of a point, through which its plane is laid; as in Open3D
CHUNK = 50_000  # points whose neighbours are in memory at a time
ICP_THRESHOLD = 0.1  # scene units
ICP_ROUNDS = 20
MIN_POINTS = 10
_NO_RANGE = 1e-12  # scene units: a point in the camera itself has no relative error that is finite

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cloud:
    """N points with unit normals (NaN where a neighbour is missing), float64, (N, 3) each."""

    points: Array
    normals: Array


@dataclass(frozen=True)
class Distances:
    """Distances between aligned and true points, scene units, and |cos| of their normals with those of the nearest, float64.

    relative_errors, range_errors (N,): of corresponding points before ICP, over the scene's scale, and over the true point's
    distance from the first camera; the others: to the nearest point, for each predicted (to_truth) and each true point
    (to_predicted); cosines: for both, NaN where a normal is unknown.
    """

    to_truth: Array
    to_predicted: Array
    cosines: Array
    relative_errors: Array
    range_errors: Array


def true_points(truth: GroundTruth) -> Tensor | None:
    """World points (S, H, W, 3) float64 from depth and cameras, NaN where there is no depth; None if either is unknown."""
    if truth.depth is None or truth.extrinsics is None or truth.intrinsics is None:
        return None
    return unproject_depth(truth.depth.double(), truth.extrinsics.double(), truth.intrinsics.double())


def confident(confidence: Tensor, share: float = CONFIDENT_SHARE) -> Tensor:
    """Pixels (S, H, W) among the most confident ones of the scene. share: above 0, at most 1."""
    ordered = confidence.flatten().double().sort().values
    return confidence.double() >= ordered[int((1 - share) * len(ordered))]


def counted(shape: torch.Size, confidence: Tensor | None, options: Points) -> Tensor:
    """Pixels (S, H, W) that count. confidence: (S, H, W) of the FP32 model; None: it tells nothing."""
    mask = torch.ones(shape, dtype=torch.bool)
    if confidence is not None and options.share < 1:
        mask = confident(confidence, options.share)
    if options.crop is not None:
        inside = torch.zeros_like(mask)
        top, left = (max(0, size // 2 - options.crop // 2) for size in shape[-2:])
        inside[:, top : top + options.crop, left : left + options.crop] = True
        mask = mask & inside
    return mask


def first_camera(truth: GroundTruth) -> Array:
    """The centre (3,) of the first camera in world coordinates, float64; the extrinsics have to be known."""
    assert truth.extrinsics is not None
    extrinsics = truth.extrinsics[0].double()
    return (-extrinsics[:3, :3].mT @ extrinsics[:3, 3]).cpu().numpy()


def point_metrics(
    predicted: Tensor,
    truth: Tensor,
    mask: Tensor,
    icp: bool = False,
    camera: Array | None = None,
    options: Points | None = None,
) -> dict[str, Any]:
    """Errors in scene units, and relative to the scene's scale (mean distance of the true points from their centre).

    predicted, truth: (S, H, W, 3), truth NaN where unknown; mask: (S, H, W) bool. camera: centre of the first camera among the
    true points, by default the origin. options: how many points and which normals. Returns the metrics of scope `points`,
    points, icp. Undefined with fewer than MIN_POINTS valid pixels: NaN. A prediction that is not finite there, or collapses to
    a point, scores infinite errors.
    """
    valid = mask & truth.isfinite().all(-1)
    count = int(valid.sum())
    about = {"points": count, "icp": icp}
    undefined: dict[str, Any] = {metric.key: math.nan for metric in metrics("points")} | about
    failed = {metric.key: metric.worst for metric in metrics("points")} | about
    if count < MIN_POINTS:
        return undefined
    if not predicted[valid].isfinite().all():
        return failed
    options = options or Points()
    chosen = _thinned(valid.cpu().numpy(), options.most)
    source = _cloud(predicted.double().cpu().numpy(), chosen, options.normals)
    target = _cloud(truth.double().cpu().numpy(), chosen, options.normals)
    aligned = _align(source, target)
    if aligned is None:
        return failed
    scale = float(np.linalg.norm(target.points - target.points.mean(0), axis=1).mean())
    errors = np.linalg.norm(aligned.points - target.points, axis=1)
    ranges = np.linalg.norm(target.points - (np.zeros(3) if camera is None else camera), axis=1)
    relative = (errors / scale, errors / np.maximum(ranges, _NO_RANGE))
    distances = _distances(_icp(aligned, target) if icp else aligned, target, *relative)
    scores = {metric.key: metric.function(distances) for metric in metrics("points") if metric.function}
    return scores | about


def _distances(predicted: Cloud, truth: Cloud, relative_errors: Array, range_errors: Array) -> Distances:
    to_truth, nearest_true = _tree(truth.points).query(predicted.points)
    to_predicted, nearest_predicted = _tree(predicted.points).query(truth.points)
    forth = np.abs((predicted.normals * truth.normals[nearest_true]).sum(1))
    back = np.abs((truth.normals * predicted.normals[nearest_predicted]).sum(1))
    cosines = np.concatenate([forth, back])
    return Distances(to_truth, to_predicted, cosines, relative_errors, range_errors)


def _tree(points: Array) -> Any:
    """Finds nearest neighbours among `points`, (N, 3)."""
    from scipy.spatial import cKDTree  # a third of a second, and not every process compares points

    return cKDTree(points)


def _thinned(valid: NDArray[np.bool_], most: int | None) -> NDArray[np.bool_]:
    """At most about `most` pixels, on the same regular grid in every frame; all for None."""
    if most is None:
        return valid
    step = max(1, int(np.ceil(np.sqrt(valid.sum() / most))))
    grid = np.zeros_like(valid)
    grid[:, ::step, ::step] = True
    return valid & grid


def _cloud(points: Array, chosen: NDArray[np.bool_], normals: str) -> Cloud:
    """The chosen pixels of a point map (S, H, W, 3). normals: one of NORMALS."""
    taken = points[chosen]
    return Cloud(taken, _plane_normals(taken) if normals == "neighbours" else _grid_normals(points)[chosen])


def _plane_normals(points: Array) -> Array:
    """(N, 3), of the plane that fits the nearest points of each best; their sign is arbitrary."""
    tree = _tree(points)
    normals = np.empty_like(points)
    for start in range(0, len(points), CHUNK):
        _, nearest = tree.query(points[start : start + CHUNK], k=min(NEIGHBOURS, len(points)))
        around = points[nearest] - points[nearest].mean(1, keepdims=True)
        _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
        normals[start : start + CHUNK] = axes[..., 0]
    return normals


def _grid_normals(points: Array) -> Array:
    """Of a point map (S, H, W, 3), from the cross product of its central differences; NaN at its border."""
    across, down = np.full_like(points, np.nan), np.full_like(points, np.nan)
    across[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    down[:, 1:-1] = points[:, 2:] - points[:, :-2]
    normals = np.cross(across, down)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.asarray(normals)


def _align(source: Cloud, target: Cloud) -> Cloud | None:
    """Source under the similarity that best maps it onto its corresponding target points; None if there is none."""
    transform = SimilarityTransform.from_estimate(source.points, target.points)
    if not transform or not np.isfinite(transform.params).all() or transform.scale < 1e-12:
        return None
    return _moved(source, transform.params)


def _icp(source: Cloud, target: Cloud) -> Cloud:
    """Rigid point-to-point ICP on pairs closer than ICP_THRESHOLD; stops when nothing moves any more."""
    from skimage.transform import EuclideanTransform

    tree = _tree(target.points)
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
