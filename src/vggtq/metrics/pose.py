"""Camera pose against ground truth: relative rotation and translation accuracy (RRA, RTA) and their AUC.

The protocol of VGGT on CO3D, from PoseDiffusion (Wang et al. 2023): over all frame pairs i < j the relative
pose E_i·E_j⁻¹ (E maps world to camera) is free of the choice of world frame, and its translation is compared
by direction alone, so it is free of scale as well.

Everything is float64: in float32 the poses of identical inputs differ by up to 0.056°.
"""

from typing import Any

import torch
from torch import Tensor

from vggtq.metrics.table import metrics

# A camera that only turns leaves a rounding residue of about 1e-16 · |t| as its relative translation.
_NO_BASELINE = 1e-12


def relative_poses(extrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """E_i·E_j⁻¹ for all pairs i < j of world→camera poses.

    extrinsics: (S, 3, 4). Returns rotations (P, 3, 3) and translations (P, 3) in the units of the input,
    float64, P = S(S−1)/2; the translation is exactly zero where the two camera centres coincide.
    """
    rotation, translation = extrinsics.double()[..., :3], extrinsics.double()[..., 3]
    frames = len(extrinsics)
    i, j = torch.triu_indices(frames, frames, offset=1, device=extrinsics.device)
    relative_rotation = rotation[i] @ rotation[j].mT
    relative_translation = translation[i] - (relative_rotation @ translation[j, :, None])[..., 0]
    reach = translation[i].norm(dim=-1) + translation[j].norm(dim=-1)
    no_baseline = relative_translation.norm(dim=-1) <= _NO_BASELINE * reach
    return relative_rotation, relative_translation.masked_fill(no_baseline[:, None], 0.0)


def rotation_angle_deg(rotation: Tensor) -> Tensor:
    """The angle of rotation matrices (…, 3, 3), in degrees, 0 to 180; NaN where an entry is not finite."""
    r = rotation.double()
    axis = torch.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], dim=-1
    )
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    # atan2(2 sin, 2 cos): acos of the trace alone loses half of the digits near 0 and near 180°.
    angle = torch.rad2deg(torch.atan2(axis.norm(dim=-1), trace - 1))
    return angle.where(r.isfinite().all(-1).all(-1), torch.nan)


def direction_angle_deg(a: Tensor, b: Tensor) -> Tensor:
    """The angle between vectors (…, 3), in degrees, 0 to 180; NaN where one is zero or not finite."""
    # 0/0 and inf/inf turn every vector without a direction into NaN, and no square can overflow.
    a, b = (v.double() / v.double().abs().amax(-1, keepdim=True) for v in (a, b))
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))


def relative_pose_errors(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation and translation-direction errors of all frame pairs i < j.

    predicted, truth: (S, 3, 4) world→camera, same order of frames; the world frames and scales may differ.
    Returns (rotation_deg (P,), translation_deg (P,)), float64, P = S(S−1)/2. The sign of the translation is
    ignored, as the protocol does, so translation_deg is at most 90. NaN where the prediction is not finite,
    and for the translation also where a baseline is zero: `pose_metrics` counts both as failures.
    """
    if predicted.shape != truth.shape or predicted.shape[1:] != (3, 4):
        raise ValueError(f"poses must be (S, 3, 4): got {tuple(predicted.shape)} and {tuple(truth.shape)}")
    predicted_rotation, predicted_translation = relative_poses(predicted)
    true_rotation, true_translation = relative_poses(truth.to(predicted.device))
    rotation_deg = rotation_angle_deg(predicted_rotation.mT @ true_rotation)
    angle = direction_angle_deg(predicted_translation, true_translation)
    return rotation_deg, torch.minimum(angle, 180 - angle)


def pose_metrics(rotation_deg: Tensor, translation_deg: Tensor) -> dict[str, Any]:
    """RRA@k, RTA@k and AUC@T as fractions, from the errors (P,) of `relative_pose_errors`.

    The AUC is over the larger of the two errors of a pair. `pairs` counts all of them, failed ones too; with
    one frame there are none and every metric is NaN.
    """
    rotation, translation = rotation_deg.cpu().double().numpy(), translation_deg.cpu().double().numpy()
    scores = {
        metric.key: metric.function(rotation, translation) for metric in metrics("pose") if metric.function
    }
    return {**scores, "pairs": len(rotation)}
