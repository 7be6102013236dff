"""The form into which every camera file is read, and the four conventions in which files write poses.

A convention names the axes of a camera and the direction of its matrix: opencv (x right, y down, z forward) or opengl
(x right, y up, z backward); w2c maps world to camera, c2w camera to world. vggtq itself uses opencv_w2c.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.data.cameras.lens import Lens, intrinsic_matrix
from vggtq.errors import DataError

Array = NDArray[np.float64]

CONVENTIONS = ("opencv_w2c", "opencv_c2w", "opengl_w2c", "opengl_c2w")
FLIP_Y_AND_Z = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Camera:
    """One photograph's camera as its file gives it.

    image: where the photograph is; pose: (4, 4) in the convention of its list; lens: None where the file has no intrinsics;
    size: width and height of the photograph, None where the file does not say; depth: a map of the same size.
    """

    image: Path
    pose: Array
    lens: Lens | None = None
    size: tuple[int, int] | None = None
    depth: Path | None = None


@dataclass(frozen=True)
class CameraList:
    """All cameras of a file, in its order.

    metric: poses are in metres; files: those that were read; named: images are names, to be looked for among
    the photographs; depth_scale: grey levels of a depth map per scene unit; no_depth: the grey level that says
    so, besides 0.
    """

    cameras: Sequence[Camera]
    convention: str
    files: Sequence[Path]
    metric: bool = False
    named: bool = False
    depth_scale: float = 1000.0
    no_depth: int | None = None
    notes: tuple[str, ...] = ()


def world_to_camera(poses: Array, convention: str) -> Array:
    """(…, 4, 4) in a convention to (…, 4, 4) world to camera with OpenCV axes."""
    axes, direction = convention.split("_")
    matrices = np.linalg.inv(poses) if direction == "c2w" else poses
    return np.asarray(FLIP_Y_AND_Z @ matrices if axes == "opengl" else matrices)


def pose_matrix(rows: Any, where: str) -> Array:
    """(4, 4) of 3x4 or 4x4 numbers. Raises DataError where they are no rotation and translation."""
    top = matrix(rows, [(4, 4), (3, 4)], where)[:3]
    rotation = top[:, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise DataError(f"{where}: its left 3x3 part is not a rotation")
    return np.concatenate([top, [[0.0, 0.0, 0.0, 1.0]]])


def matrix(rows: Any, shapes: Sequence[tuple[int, int]], where: str) -> Array:
    """A matrix of finite numbers. Raises DataError."""
    try:
        numbers = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is not a matrix of numbers") from error
    if numbers.shape not in shapes or not np.isfinite(numbers).all():
        raise DataError(
            f"{where} must be finite and {' or '.join(f'{r}x{c}' for r, c in shapes)}, got {numbers.shape}"
        )
    return numbers


def pinhole(intrinsics: Sequence[float]) -> Lens:
    """A lens without distortion. intrinsics: fx, fy, cx, cy in pixels, pixel centres at integers."""
    fx, fy, cx, cy = map(float, intrinsics)
    return Lens(fx, fy, cx, cy)


def of_matrix(rows: Any, where: str) -> Lens:
    """A lens without distortion of its 3x3 matrix. Raises DataError."""
    K = matrix(rows, [(3, 3)], where)
    lens = pinhole((K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    if not np.allclose(K, intrinsic_matrix(lens), atol=1e-6) or min(lens.fx, lens.fy) <= 0:
        raise DataError(f"{where} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with focal lengths above 0")
    return lens


def read_depth(path: Path, listed: CameraList) -> NDArray[np.float32]:
    """(h, w) in scene units, NaN where unknown: 16-bit PNG or float32 PFM. Raises DataError."""
    try:
        with Image.open(path) as file:
            levels = np.asarray(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read depth {path}: {error}") from error
    if levels.ndim != 2 or levels.itemsize < 2:
        raise DataError(
            f"{path}: expected a 16-bit single-channel PNG or a PFM, got {levels.dtype} {levels.shape}"
        )
    known = np.isfinite(levels) & (levels > 0) & (levels != (listed.no_depth or 0))
    return np.where(known, levels / listed.depth_scale, np.nan).astype(np.float32)
