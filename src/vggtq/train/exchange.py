"""The part of the pose accuracy that needs other frames: frames of a scene are replaced by those of others.

A network that recognises the azimuth of a camera in one image, from a cue that all scenes share, scores without
ever looking at two images together. Such a score says nothing about global attention. Here every frame meets
only frames of one foreign scene, the same ones each time. Poses towards these are composed to relative poses
between the scene's own frames and scored as usual.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vggtq.data.procedural import Frames
from vggtq.geometry import decode_pose
from vggtq.metrics.formulas import area_under_curve
from vggtq.metrics.pose import relative_pose_errors

AUC_DEG = 30
REFERENCES = 4  # foreign scenes over which the result is averaged
Predict = Callable[[Tensor], Tensor]
"""Images (B, S, 3, H, W) to pose encodings (B, S, 9)."""


def exchange_test(predict: Predict, frames: Frames) -> dict[str, float]:
    """AUC@30 of all pairs. frames: B > REFERENCES scenes of S ≥ 2 frames.

    normal: as it is. pair kept: all but two frames of a scene are those of the next scene. alone: each frame with foreign
    frames only, one or S − 1 of them, whichever scores more. share: alone over normal.
    """
    if len(frames.images) <= REFERENCES or frames.images.shape[1] < 2:
        raise ValueError(
            f"{len(frames.images)} scenes of {frames.images.shape[1]} frames: give more than {REFERENCES} of 2 or more"
        )
    normal = _auc(_poses(predict, frames.images), frames.extrinsics)
    alone = max(alone_auc(predict, frames, company) for company in {1, frames.images.shape[1] - 1})
    return {
        "normal": normal,
        "pair kept": pair_kept_auc(predict, frames),
        "alone": alone,
        "share": alone / normal if normal else float("nan"),
    }


def alone_auc(predict: Predict, frames: Frames, company: int) -> float:
    """Each frame stands behind `company` frames of a foreign scene, whose first one is the world for all of them."""
    images, scores = frames.images, []
    scenes, count = images.shape[:2]
    for reference in range(REFERENCES):
        foreign = images[reference, :company].expand(scenes, -1, -1, -1, -1)
        towards = [
            _poses(predict, torch.cat([foreign, images[:, j : j + 1]], 1))[:, -1] for j in range(count)
        ]
        others = [i for i in range(scenes) if i != reference]
        scores.append(_auc(torch.stack(towards, 1)[others], frames.extrinsics[others]))
    return float(np.mean(scores))


def pair_kept_auc(predict: Predict, frames: Frames) -> float:
    """Frame 0 and one other keep their scene, all others come from the next one."""
    images, foreign = frames.images, frames.images.roll(-1, 0)
    predicted, truth = [], []
    for j in range(1, images.shape[1]):
        mixed = foreign.clone()
        mixed[:, 0], mixed[:, j] = images[:, 0], images[:, j]
        predicted.append(_poses(predict, mixed)[:, [0, j]])
        truth.append(frames.extrinsics[:, [0, j]])
    return _auc(torch.cat(predicted), torch.cat(truth))


def _poses(predict: Predict, images: Tensor) -> Tensor:
    """World to camera (B, S, 3, 4) float64."""
    return decode_pose(predict(images).double(), (images.shape[-2], images.shape[-1]))[0]


def _auc(predicted: Tensor, truth: Tensor) -> float:
    pairs = [relative_pose_errors(p, t) for p, t in zip(predicted, truth, strict=True)]
    worse = torch.cat([torch.maximum(rotation, translation) for rotation, translation in pairs])
    return area_under_curve(worse.numpy(), AUC_DEG)
