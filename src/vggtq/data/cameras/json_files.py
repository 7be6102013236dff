"""Cameras in JSON: vggtq's own cameras.json, and transforms.json of nerfstudio and instant-ngp.

    {"pose_scale": "metric",                      any other value: the scene unit is unknown
     "images": [{"image": "images/00053.png",     relative to the folder of cameras.json
                 "width": 540, "height": 360,     pixels of the image (and of its depth)
                 "K": [[…], […], […]],            3x3, pixels, pixel centres at integers
                 "w2c": [[…], …],                 3x4 or 4x4, world to camera, OpenCV axes
                 "depth": "depth/00053.png"}]}    optional: 16-bit PNG, millimetres, z-depth, 0 = unknown

    {"w": 1080, "h": 1920, "fl_x": 1375.5, "fl_y": 1374.5, "cx": 554.6, "cy": 965.3,      of all frames, or in a frame
     "k1": 0.05, "k2": -0.08, "p1": 0.0, "p2": 0.0,                                       optional, as in OpenCV
     "frames": [{"file_path": "images/0001.jpg", "transform_matrix": [[…], …]}]}          camera to world, OpenGL axes

Other keys are ignored.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vggtq.data.cameras.camera import Camera, CameraList, of_matrix, pose_matrix
from vggtq.data.cameras.lens import Lens
from vggtq.data.select import natural_key
from vggtq.errors import DataError

SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")  # of which old transforms.json have none


def read_json(path: Path) -> CameraList | None:
    """The cameras of the file, or None when it is the JSON of some other program. Raises DataError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; repair or remove it") from error
    for key, read in (("images", _cameras_json), ("frames", _transforms_json)):
        entries = data.get(key) if isinstance(data, dict) else None
        if isinstance(entries, list) and entries:
            return read(path, data, entries)
    return None


def _cameras_json(path: Path, data: dict[str, Any], entries: list[Any]) -> CameraList:
    metric = data.get("pose_scale") == "metric"
    cameras = [_camera(entry, path, i) for i, entry in enumerate(entries)]
    notes: tuple[str, ...] = ()
    if any(camera.depth for camera in cameras) and not metric:
        notes = ("depth in millimetres was ignored: the scale of the poses is not metric",)
        cameras = [replace(camera, depth=None) for camera in cameras]
    return CameraList(cameras, "opencv_w2c", [path], metric, notes=notes)


def _camera(entry: Any, path: Path, index: int) -> Camera:
    where = f"{path}, images[{index}]"
    _check_keys(entry, ("image", "width", "height", "K", "w2c"), where)
    depth = entry.get("depth")
    if not isinstance(entry["image"], str) or not (depth is None or isinstance(depth, str)):
        raise DataError(f"{where}: image and depth must be file names")
    return Camera(
        path.parent / entry["image"],
        pose_matrix(entry["w2c"], f"{where}: w2c"),
        of_matrix(entry["K"], f"{where}: K"),
        _size(entry["width"], entry["height"], where),
        None if depth is None else path.parent / depth,
    )


def _transforms_json(path: Path, data: dict[str, Any], entries: list[Any]) -> CameraList:
    cameras = [_frame(entry, data, f"{path}, frames[{i}]", path.parent) for i, entry in enumerate(entries)]
    cameras.sort(key=lambda camera: natural_key(camera.image.as_posix()))
    unread = any("depth_file_path" in entry for entry in entries)
    notes = ("depth_file_path of transforms.json is not read",) if unread else ()
    return CameraList(cameras, "opengl_c2w", [path], notes=notes)


def _frame(entry: Any, common: dict[str, Any], where: str, folder: Path) -> Camera:
    _check_keys(entry, ("file_path", "transform_matrix"), where)
    if not isinstance(entry["file_path"], str):
        raise DataError(f"{where}: file_path must be a file name")
    image = folder / entry["file_path"]
    if not image.suffix:
        image = next((i for s in SUFFIXES if (i := image.with_name(image.name + s)).is_file()), image)
    pose = pose_matrix(entry["transform_matrix"], f"{where}: transform_matrix")
    keys = {**common, **entry}
    if not {"w", "h"} <= keys.keys() and image.is_file():
        with Image.open(image) as file:  # its header alone
            keys["w"], keys["h"] = file.size
    lens, size = _lens(keys, where)
    return Camera(image, pose, lens, size)


def _lens(keys: dict[str, Any], where: str) -> tuple[Lens | None, tuple[int, int] | None]:
    """Intrinsics, where the file has them; w and h are those of the image where it has not."""
    size = _size(keys["w"], keys["h"], where) if {"w", "h"} <= keys.keys() else None
    if "FISHEYE" in str(keys.get("camera_model", "")) or keys.get("is_fisheye"):
        raise DataError(
            f"{where}: what a fisheye lens sees does not fit on a perspective image; undistort the photographs first"
        )
    try:
        focal = float(keys["fl_x"]) if "fl_x" in keys else _focal(keys, size)
        if focal is None:
            return None, size
        centre = [float(keys.get(k, (size[i] / 2 if size else 0))) for i, k in enumerate(("cx", "cy"))]
        distortion = tuple(float(keys.get(k, 0.0)) for k in ("k1", "k2", "p1", "p2", "k3"))
        numbers = [focal, float(keys.get("fl_y", focal)), centre[0] - 0.5, centre[1] - 0.5]
        fourth = float(keys.get("k4", 0.0))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: fl_x, fl_y, cx, cy, k1, … must be numbers: {error}") from error
    if fourth or min(numbers[:2]) <= 0 or not all(map(math.isfinite, (*numbers, *distortion))):
        raise DataError(
            f"{where}: focal lengths must be above 0, all numbers finite and k4 (a fisheye's) 0; got {numbers}, k4={fourth:g}"
        )
    fx, fy, cx, cy = numbers
    return Lens(fx, fy, cx, cy, distortion if any(distortion) else ()), size


def _focal(keys: dict[str, Any], size: tuple[int, int] | None) -> float | None:
    angle = keys.get("camera_angle_x")
    return None if angle is None or size is None else size[0] / 2 / math.tan(float(angle) / 2)


def _check_keys(entry: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with {', '.join(keys[:-1])} and {keys[-1]}")
    if missing := [key for key in keys if key not in entry]:
        raise DataError(f"{where}: lacks {', '.join(missing)}")


def _size(width: Any, height: Any, where: str) -> tuple[int, int]:
    if not all(isinstance(side, int | float) and side > 0 and side == int(side) for side in (width, height)):
        raise DataError(f"{where}: width and height must be positive integers, got {width!r} and {height!r}")
    return int(width), int(height)
