"""Names and conventions of predictions that all networks share. An output that a network lacks is absent.

pose_enc (S, 9): translation, quaternion x, y, z, w, vertical and horizontal field of view (`vggtq.geometry.decode_pose`).
extrinsics (S, 3, 4): world to camera, of a network without a field of view. depth (S, H, W, 1), along the optical axis.
depth_conf (S, H, W): of depth and of each output without a confidence of its own, higher is better.
world_points (S, H, W, 3), world_points_conf (S, H, W). The first camera is the world frame; the unit is the
network's own.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")  # that tables show
NAMES = (*OUTPUTS, "extrinsics")
MAPS = frozenset(OUTPUTS) - {"pose_enc"}  # (S, H, W) or (S, H, W, C)

Outputs = Mapping[str, "Tensor"]  # torch loads slowly, and the report needs names alone


def extrinsics_of(outputs: Outputs) -> "Tensor | None":
    """(S, 3, 4) float64, world to camera; None where a network gives no cameras."""
    from vggtq.geometry import decode_pose

    if "pose_enc" in outputs:
        return decode_pose(outputs["pose_enc"].double(), (1, 1))[0]  # which depends on no image size
    return outputs["extrinsics"].double() if "extrinsics" in outputs else None


def cameras_of(outputs: Outputs, size_hw: tuple[int, int]) -> "tuple[Tensor, Tensor] | None":
    """Extrinsics (S, 3, 4) and intrinsics (S, 3, 3), float64, pixels of an image of `size_hw`; None without cameras.

    A network without a field of view has points, to which a focal length is fitted (`fit_intrinsics`).
    """
    from vggtq.geometry import decode_pose, fit_intrinsics

    if "pose_enc" in outputs:
        return decode_pose(outputs["pose_enc"].double(), size_hw)
    extrinsics = extrinsics_of(outputs)
    if extrinsics is None or "world_points" not in outputs:
        return None
    points = outputs["world_points"].double()
    local = points @ extrinsics[:, None, :, :3].mT + extrinsics[:, None, None, :, 3]
    return extrinsics, fit_intrinsics(local)


def confidence_of(outputs: Outputs, points: bool = False) -> "Tensor | None":
    """(S, H, W): of depth, or of points where those have their own."""
    names = ("world_points_conf", "depth_conf") if points else ("depth_conf", "world_points_conf")
    return next((outputs[name] for name in names if name in outputs), None)
