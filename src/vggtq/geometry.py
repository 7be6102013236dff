"""Pose encodings, rigid transforms and unprojection (VGGT, Wang et al. 2025).

Extrinsics are [R | t], world to camera, OpenCV axes. Every function keeps the dtype that it is given: float64 in,
float64 out. The principal point of a decoded camera is (W/2, H/2), although pixel centres lie at integers.
"""

import torch
from torch import Tensor

Size = tuple[int, int]


def decode_pose(pose_enc: Tensor, size_hw: Size) -> tuple[Tensor, Tensor]:
    """(…, 9) to extrinsics (…, 3, 4) and intrinsics (…, 3, 3) in pixels of an image of `size_hw`.

    The nine are translation, quaternion x, y, z, w of any non-zero length, and vertical and horizontal field of
    view in radians. A field of view of 0 gives an infinite focal length.
    """
    rotation = quaternion_to_matrix(pose_enc[..., 3:7])
    extrinsics = torch.cat([rotation, pose_enc[..., :3, None]], dim=-1)
    height, width = size_hw
    intrinsics = pose_enc.new_zeros(*pose_enc.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = (width / 2) / torch.tan(pose_enc[..., 8] / 2)
    intrinsics[..., 1, 1] = (height / 2) / torch.tan(pose_enc[..., 7] / 2)
    intrinsics[..., 0, 2] = width / 2
    intrinsics[..., 1, 2] = height / 2
    intrinsics[..., 2, 2] = 1
    return extrinsics, intrinsics


def encode_pose(extrinsics: Tensor, intrinsics: Tensor, size_hw: Size) -> Tensor:
    """Inverse of `decode_pose`, with a unit quaternion whose w ≥ 0; the principal point is not encoded."""
    height, width = size_hw
    fov_h = 2 * torch.atan((height / 2) / intrinsics[..., 1, 1])
    fov_w = 2 * torch.atan((width / 2) / intrinsics[..., 0, 0])
    quaternion = matrix_to_quaternion(extrinsics[..., :3, :3])
    return torch.cat([extrinsics[..., :3, 3], quaternion, torch.stack([fov_h, fov_w], dim=-1)], dim=-1)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(…, 4) as x, y, z, w to rotations (…, 3, 3); the length does not matter, nor does the sign."""
    i, j, k, r = quaternion.unbind(-1)
    s = 2 / (quaternion * quaternion).sum(-1)
    rows = (
        (1 - s * (j * j + k * k), s * (i * j - k * r), s * (i * k + j * r)),
        (s * (i * j + k * r), 1 - s * (i * i + k * k), s * (j * k - i * r)),
        (s * (i * k - j * r), s * (j * k + i * r), 1 - s * (i * i + j * j)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """(…, 3, 3) to unit quaternions (…, 4) as x, y, z, w with w ≥ 0.

    Of the four equivalent formulas, the one that divides by the largest component: the others lose digits.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in rotation.unbind(-2))
    squares = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], dim=-1
    ).clamp(min=0)
    r2, i2, j2, k2 = squares.unbind(-1)
    candidates = (
        (r2, m21 - m12, m02 - m20, m10 - m01),
        (m21 - m12, i2, m10 + m01, m02 + m20),
        (m02 - m20, m10 + m01, j2, m12 + m21),
        (m10 - m01, m20 + m02, m21 + m12, k2),
    )
    table = torch.stack([torch.stack(row, dim=-1) for row in candidates], dim=-2)
    index = squares.argmax(dim=-1, keepdim=True)  # the first on ties
    largest = squares.gather(-1, index).sqrt()
    chosen = table.gather(-2, index[..., None].expand(*index.shape, 4)).squeeze(-2)
    r, ijk = (chosen / (2 * largest.clamp(min=0.1))).split([1, 3], dim=-1)
    return torch.where(r < 0, -1, 1) * torch.cat([ijk, r], dim=-1)


def invert_se3(extrinsics: Tensor) -> Tensor:
    """[R | t] (…, 3, 4) or (…, 4, 4) to its inverse (…, 4, 4): [Rᵀ | −Rᵀt]."""
    rotation = extrinsics[..., :3, :3].mT
    inverse = extrinsics.new_zeros(*extrinsics.shape[:-2], 4, 4)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ extrinsics[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


def unproject_depth(depth: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> Tensor:
    """World points (S, H, W, 3) of depth (S, H, W) or (S, H, W, 1) along the optical axis; skew must be 0.

    extrinsics: (S, 3, 4); intrinsics: (S, 3, 3). Pixels without valid depth are unprojected like any other.
    """
    if depth.ndim == 4 and depth.shape[-1] == 1:
        depth = depth[..., 0]
    _, height, width = depth.shape
    u = torch.arange(width, device=depth.device, dtype=depth.dtype)
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None]
    fx, fy, cx, cy = (intrinsics[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    camera = torch.stack([(u - cx) * depth / fx, (v - cy) * depth / fy, depth], dim=-1)
    world = invert_se3(extrinsics)
    return camera @ world[:, None, :3, :3].mT + world[:, None, None, :3, 3]


def fit_intrinsics(points: Tensor) -> Tensor:
    """(S, 3, 3) of the pinhole cameras that see points (S, H, W, 3), given in each camera's own frame, best in their pixels.

    Least squares over all pixels, f = Σ x(u − c)/Σ x² with x = X/|Z|, with the principal point in the middle of the pixel
    centres; points that are not finite count nothing. Two focal lengths; NaN without points, and not positive where rays do not
    widen to the sides as those of a camera do.
    """
    frames, height, width, _ = points.shape
    rays = points[..., :2] / (points[..., 2:].abs() + 1e-10)
    usable = rays.isfinite().all(-1, keepdim=True)
    rays = rays.where(usable, 0)
    centre = points.new_tensor([(width - 1) / 2, (height - 1) / 2])
    u = torch.arange(width, device=points.device, dtype=points.dtype).expand(height, width)
    v = torch.arange(height, device=points.device, dtype=points.dtype)[:, None].expand(height, width)
    offsets = torch.stack([u, v], dim=-1) - centre
    focal = (rays * offsets).sum((1, 2)) / rays.square().sum((1, 2))
    intrinsics = points.new_zeros(frames, 3, 3)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal.unbind(-1)
    intrinsics[:, :2, 2] = centre
    intrinsics[:, 2, 2] = 1
    return intrinsics
