"""A prediction in plain arrays: what the network said, with cameras decoded and padding marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggtq.data.select import count
from vggtq.errors import VggtqError
from vggtq.geometry import decode_pose
from vggtq.prediction.inputs import Inputs, covered


class PredictionError(VggtqError):
    """A network's output of which no depth or camera can be made."""


@dataclass(frozen=True)
class Prediction:
    """S frames of H × W. Depth and points have the network's own unit; frame 0's camera is the world frame.

    extrinsics (S, 3, 4) float64, world to camera, OpenCV axes; intrinsics (S, 3, 3) float64, pixels of the network's
    frame, centres at integers. depth, confidence (S, H, W) float32, NaN in padding. points (S, H, W, 3) and
    points_confidence (S, H, W) are the point head's, where they were asked for.
    """

    inputs: Inputs
    extrinsics: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    points: NDArray[np.float32] | None = None
    points_confidence: NDArray[np.float32] | None = None

    def source_intrinsics(self, frame: int) -> NDArray[np.float64]:
        """(3, 3) in pixels of the original image, as stored in its file; pixel centres at integers."""
        affine = self.inputs.transforms[frame].intrinsics(np.eye(3))
        return np.asarray(np.linalg.solve(affine, self.intrinsics[frame]))

    def source_pixels(self, frame: int, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) pixels u, v of the network's frame in the original image; both with centres at integers."""
        t = self.inputs.transforms[frame]
        return (uv + 0.5 - (t.offset_x, t.offset_y)) / (t.scale_x, t.scale_y) - 0.5


def as_prediction(inputs: Inputs, outputs: Mapping[str, Tensor], with_points: bool) -> Prediction:
    """Checks and decodes what `LoadedModel.predict` returns. Raises PredictionError."""
    needed = ["pose_enc", "depth", "depth_conf"] + ["world_points", "world_points_conf"] * with_points
    if missing := [key for key in needed if key not in outputs]:
        raise PredictionError(f"the model gives no {', '.join(missing)}; is one of its heads switched off?")
    extrinsics, intrinsics = decode_cameras(outputs["pose_enc"], inputs)
    padding = ~np.stack([covered(transform) for transform in inputs.transforms])
    maps = [
        outputs["depth"][..., 0].numpy(),
        *(outputs[key].numpy() for key in needed[2:]),
    ]
    for array in maps:
        array[padding] = np.nan
    return Prediction(inputs, extrinsics, intrinsics, *maps)


def decode_cameras(pose_enc: Tensor, inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(S, 9) to extrinsics (S, 3, 4) and intrinsics (S, 3, 3). Raises PredictionError where that gives no camera."""
    extrinsics, intrinsics = decode_pose(pose_enc.to(torch.float64), inputs.size_hw)
    for name, encoding, pose in zip(inputs.names, pose_enc.double(), extrinsics, strict=True):
        fov = torch.rad2deg(encoding[7:])
        if not torch.isfinite(pose).all():
            raise PredictionError(f"{name}: the predicted pose is not finite; try a scheme with more bits")
        if not ((fov > 0.01) & (fov < 179.99)).all():
            degrees = f"{fov[1]:.3g}° × {fov[0]:.3g}°"
            raise PredictionError(
                f"{name}: the predicted field of view is {degrees}, which is no camera; try a scheme with more bits"
            )
    return extrinsics.numpy(), intrinsics.numpy()


def defects(prediction: Prediction) -> list[str]:
    """Notes on pixels whose depth is not finite or not positive."""
    shown = np.stack([covered(transform) for transform in prediction.inputs.transforms])
    with np.errstate(invalid="ignore"):
        bad = shown & ~(np.isfinite(prediction.depth) & (prediction.depth > 0))
    frames: Sequence[int] = np.flatnonzero(bad.any((1, 2))).tolist()
    if not frames:
        return []
    return [
        f"{count(int(bad.sum()), 'pixel')} of {count(len(frames), 'image')} have no finite positive depth, "
        f"first {prediction.inputs.names[frames[0]]}; they are left out of the point cloud"
    ]
