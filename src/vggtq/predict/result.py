"""A prediction in plain arrays: the network's outputs, with cameras decoded and padding marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggtq.data.cameras.camera import FLIP_Y_AND_Z
from vggtq.data.select import count
from vggtq.errors import VggtqError
from vggtq.geometry import invert_se3
from vggtq.network.outputs import cameras_of, confidence_of
from vggtq.predict.inputs import Inputs, covered
from vggtq.predict.per_frame import Maps, positive, values


class PredictionError(VggtqError):
    """A network's output that gives no depth or camera."""


@dataclass(frozen=True)
class Prediction:
    """S frames of H × W. Depth and points have the network's own unit; frame 0's camera is the world frame.

    extrinsics (S, 3, 4) float64, world to camera, OpenCV axes; intrinsics (S, 3, 3) float64, pixels of the network's
    frame, centres at integers, fitted to the points where the network has no field of view. depth, confidence (S, H, W)
    float32, NaN in padding. points (S, H, W, 3) and points_confidence (S, H, W) are the network's own, where they were asked
    for or there is no other way to points. Maps and points of many frames are read frame by frame.
    """

    inputs: Inputs
    extrinsics: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: Maps
    confidence: Maps
    points: Maps | None = None
    points_confidence: Maps | None = None
    intrinsics_fitted: bool = False

    def source_intrinsics(self, frame: int) -> NDArray[np.float64]:
        """(3, 3) in pixels of the original image, as stored in its file; pixel centres at integers."""
        affine = self.inputs.transforms[frame].intrinsics(np.eye(3))
        return np.asarray(np.linalg.solve(affine, self.intrinsics[frame]))

    @cached_property
    def camera_size(self) -> float:
        """The depth of a camera's frustum in viewers: a tenth of the median depth, in the network's unit."""
        usable = values(self.depth, positive)
        return float(np.median(usable, overwrite_input=True)) / 10 if usable.size else 0.1

    def opengl_poses(self) -> NDArray[np.float64]:
        """(S, 4, 4) camera to world, of cameras with OpenGL axes: x right, y up, z backward. The world is the same."""
        return np.asarray(invert_se3(torch.from_numpy(self.extrinsics)).numpy() @ FLIP_Y_AND_Z)

    def source_pixels(self, frame: int, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) pixels u, v of the network's frame in the original image; both with centres at integers."""
        t = self.inputs.transforms[frame]
        return (uv + 0.5 - (t.offset_x, t.offset_y)) / (t.scale_x, t.scale_y) - 0.5


def as_prediction(inputs: Inputs, outputs: Mapping[str, Tensor], with_points: bool) -> Prediction:
    """Checks and decodes what `LoadedModel.predict` returns. Raises PredictionError."""
    fitted = "pose_enc" not in outputs and "extrinsics" in outputs
    with_points |= fitted
    cameras = "extrinsics" if fitted else "pose_enc"
    missing = [key for key in (cameras, "depth", *["world_points"] * with_points) if key not in outputs]
    confidence, of_points = confidence_of(outputs), confidence_of(outputs, points=True)
    if missing or confidence is None or of_points is None:
        named = ", ".join(missing or ["confidence"])
        raise PredictionError(f"the model gives no {named}; has it no head for that, or is it switched off?")
    extrinsics, intrinsics = decode_cameras(outputs, inputs)
    maps = [
        outputs["depth"][..., 0],
        confidence,
        *([outputs["world_points"], of_points] if with_points else []),
    ]
    padding = ~np.stack([covered(transform) for transform in inputs.transforms])
    arrays = [tensor.clone().numpy() for tensor in maps]
    for array in arrays:
        array[padding] = np.nan
    points, points_confidence = arrays[2:] if with_points else (None, None)
    return Prediction(inputs, extrinsics, intrinsics, arrays[0], arrays[1], points, points_confidence, fitted)


def decode_cameras(
    outputs: Mapping[str, Tensor], inputs: Inputs
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Extrinsics (S, 3, 4) and intrinsics (S, 3, 3). Raises PredictionError where there is no camera."""
    cameras = cameras_of(outputs, inputs.size_hw)
    assert cameras is not None
    extrinsics, intrinsics = cameras
    frames = zip(inputs.names, extrinsics, _fields_of_view(outputs, intrinsics, inputs), strict=True)
    for name, pose, fov in frames:
        if not torch.isfinite(pose).all():
            raise PredictionError(f"{name}: the predicted pose is not finite; try a scheme with more bits")
        if not ((fov > 0.01) & (fov < 179.99)).all():
            degrees = f"{fov[1]:.3g}° × {fov[0]:.3g}°"
            raise PredictionError(
                f"{name}: the predicted field of view is {degrees}, which is no camera; try a scheme with more bits"
            )
    return extrinsics.numpy(), intrinsics.numpy()


def _fields_of_view(outputs: Mapping[str, Tensor], intrinsics: Tensor, inputs: Inputs) -> Tensor:
    """(S, 2) vertical and horizontal, degrees; predicted or, of fitted focal lengths, from these."""
    if "pose_enc" in outputs:
        return torch.rad2deg(outputs["pose_enc"][:, 7:].double())
    focal = torch.stack([intrinsics[:, 1, 1], intrinsics[:, 0, 0]], dim=-1)
    sides = torch.tensor(inputs.size_hw, dtype=torch.float64)
    return torch.rad2deg(2 * torch.atan2(sides / 2, focal))


def defects(prediction: Prediction) -> list[str]:
    """Notes on pixels whose depth is not finite or not positive."""
    maps = enumerate(zip(prediction.inputs.transforms, prediction.depth, strict=True))
    bad = [int((covered(transform) & ~positive(i, depth)).sum()) for i, (transform, depth) in maps]
    frames: Sequence[int] = np.flatnonzero(bad).tolist()
    if not frames:
        return []
    return [
        f"{count(sum(bad), 'pixel')} of {count(len(frames), 'image')} have no finite positive depth, "
        f"first {prediction.inputs.names[frames[0]]}; they are left out of the point cloud"
    ]
