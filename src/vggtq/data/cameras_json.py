"""Reads `cameras.json`: poses, intrinsics and depth files of a folder of images.

    {"pose_scale": "metric",                      any other value: the scene unit is unknown
     "images": [{"image": "images/00053.png",     relative to the folder of cameras.json
                 "width": 540, "height": 360,     pixels of the image (and of its depth)
                 "K": [[…], […], […]],            3x3, pixels, pixel centres at integers
                 "w2c": [[…], …],                 3x4 or 4x4, world to camera, OpenCV axes
                 "depth": "depth/00053.png"}]}    optional: 16-bit PNG, millimetres, z-depth, 0 = unknown

Other keys are ignored.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """One entry. extrinsics (3, 4) world to camera, intrinsics (3, 3) pixels; depth is a path or None."""

    image: str
    width: int
    height: int
    intrinsics: Array
    extrinsics: Array
    depth: str | None

    def read_depth(self, folder: Path) -> NDArray[np.float32] | None:
        """(height, width) metres, NaN where unknown; None when the entry has no depth. Raises DataError."""
        if self.depth is None:
            return None
        path = folder / self.depth
        try:
            with Image.open(path) as file:
                millimetres = np.asarray(file)
        except (OSError, SyntaxError) as error:
            raise DataError(f"cannot read depth {path}: {error}") from error
        if (
            millimetres.ndim != 2
            or not np.issubdtype(millimetres.dtype, np.integer)
            or millimetres.itemsize < 2
        ):
            raise DataError(
                f"{path}: expected a 16-bit single-channel PNG, got {millimetres.dtype} {millimetres.shape}"
            )
        if millimetres.shape != (self.height, self.width):
            h, w = millimetres.shape
            raise DataError(f"{path}: depth is {w}x{h}, cameras.json says {self.width}x{self.height}")
        return np.where(millimetres > 0, millimetres / 1000.0, np.nan).astype(np.float32)


@dataclass(frozen=True)
class CameraList:
    """All entries in the order of the file. metric: poses are in metres."""

    cameras: Sequence[Camera]
    metric: bool


def read_cameras_json(path: Path) -> CameraList | None:
    """The cameras of the file, or None when it is a cameras.json of some other program. Raises DataError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; repair or remove it") from error
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        return None
    cameras = [_camera(entry, f"{path}, images[{i}]") for i, entry in enumerate(entries)]
    return CameraList(cameras, metric=data.get("pose_scale") == "metric")


def _camera(entry: Any, where: str) -> Camera:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with image, width, height, K and w2c")
    missing = [key for key in ("image", "width", "height", "K", "w2c") if key not in entry]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}")
    depth = entry.get("depth")
    if not isinstance(entry["image"], str) or not (depth is None or isinstance(depth, str)):
        raise DataError(f"{where}: image and depth must be file names")
    if not all(isinstance(entry[key], int) and entry[key] > 0 for key in ("width", "height")):
        raise DataError(f"{where}: width and height must be positive integers")
    intrinsics = _matrix(entry["K"], [(3, 3)], f"{where}: K")
    extrinsics = _matrix(entry["w2c"], [(4, 4), (3, 4)], f"{where}: w2c")[:3]
    rotation = extrinsics[:, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise DataError(f"{where}: the left 3x3 part of w2c is not a rotation")
    return Camera(entry["image"], entry["width"], entry["height"], intrinsics, extrinsics, depth)


def _matrix(rows: Any, shapes: list[tuple[int, int]], where: str) -> Array:
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is not a matrix of numbers") from error
    if matrix.shape not in shapes or not np.isfinite(matrix).all():
        raise DataError(
            f"{where} must be finite and {' or '.join(f'{r}x{c}' for r, c in shapes)}, got {matrix.shape}"
        )
    return matrix
