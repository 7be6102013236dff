"""COLMAP text models: cameras.txt and images.txt, and the two camera models that ETH3D uses.

PINHOLE (undistorted images) and THIN_PRISM_FISHEYE (the photographs as taken), both as in
https://colmap.github.io/cameras.html. COLMAP puts the centre of the first pixel at (0.5, 0.5); everything
returned here has it at (0, 0). points3D.txt and the 2-D observations are not read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggtq.errors import DataError

Array = NDArray[np.float64]

PARAMETERS = {
    "PINHOLE": "fx fy cx cy",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
}


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics as the file has them: pixels, centre of the first pixel at (0.5, 0.5)."""

    camera_id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def pinhole(self) -> Array:
        """(3, 3) intrinsics with pixel centres at integers. Raises DataError for a model with distortion."""
        if self.model != "PINHOLE":
            raise DataError(
                f"camera {self.camera_id} is {self.model}, expected PINHOLE; point the data set at the "
                "calibration of the undistorted images"
            )
        fx, fy, cx, cy = self.params
        return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])

    def project(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Rays (x, y, 1) to pixels (u, v) of this THIN_PRISM_FISHEYE image, pixel centres at integers.

        x, y: any common shape. NaN where the ray lies beyond the angle at which the radial polynomial folds
        back, because there it would hit a pixel that shows something else.
        """
        if self.model != "THIN_PRISM_FISHEYE":
            raise DataError(f"camera {self.camera_id} is {self.model}, expected THIN_PRISM_FISHEYE")
        fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx1, sy1 = self.params
        radius = np.hypot(x, y)
        theta = np.arctan(radius)
        theta = np.where(theta < _fold_angle(k1, k2, k3, k4), theta, np.nan)
        scale = np.divide(theta, radius, out=np.ones_like(radius), where=radius > 1e-12)
        a, b = x * scale, y * scale
        t2 = theta * theta
        radial = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
        u = a * radial + 2 * p1 * a * b + p2 * (t2 + 2 * a * a) + sx1 * t2
        v = b * radial + 2 * p2 * a * b + p1 * (t2 + 2 * b * b) + sy1 * t2
        return fx * u + cx - 0.5, fy * v + cy - 0.5


def _fold_angle(k1: float, k2: float, k3: float, k4: float) -> float:
    """The first angle (rad, at most pi/2) at which theta·(1 + k1 theta² + …) stops growing."""
    theta = np.linspace(0.0, math.pi / 2, 2048)
    t2 = theta * theta
    slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
    falling = np.flatnonzero(slope <= 0)
    return float(theta[falling[0]]) if len(falling) else math.pi / 2


@dataclass(frozen=True)
class ColmapImage:
    """One registered image. extrinsics: (3, 4) float64, world to camera."""

    name: str
    camera_id: int
    extrinsics: Array


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Cameras by id. Raises DataError with file and line."""
    cameras: dict[int, ColmapCamera] = {}
    for number, line in _lines(path):
        if not line or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        camera = _camera(line.split(), where)
        if camera.camera_id in cameras:
            raise DataError(f"{where}: camera {camera.camera_id} is defined twice")
        cameras[camera.camera_id] = camera
    if not cameras:
        raise DataError(f"{path}: no camera in the file; unpack the calibration again")
    return cameras


def read_images(path: Path, cameras: dict[int, ColmapCamera]) -> dict[str, ColmapImage]:
    """Registered images by name, in the order of the file. Raises DataError with file and line.

    Every image takes two lines; the second one lists 2-D points and may be empty.
    """
    images: dict[str, ColmapImage] = {}
    lines = _lines(path)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        image = _image(line, where)
        if image.camera_id not in cameras:
            raise DataError(f"{where}: camera {image.camera_id} is not in cameras.txt ({sorted(cameras)})")
        if image.name in images:
            raise DataError(f"{where}: image {image.name} is listed twice")
        images[image.name] = image
        _check_points(next(lines, (0, "")), path)
    if not images:
        raise DataError(f"{path}: no image in the file; unpack the calibration again")
    return images


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))


def _numbers(words: list[str], where: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"{where}: a number is not finite")
    return numbers


def _integer(word: str, where: str, what: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise DataError(f"{where}: {what} {word!r} is not an integer") from error


def _camera(words: list[str], where: str) -> ColmapCamera:
    if len(words) < 5:
        raise DataError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS…, got {len(words)} words")
    model = words[1]
    if model not in PARAMETERS:
        raise DataError(f"{where}: camera model {model} is not supported; valid: {', '.join(PARAMETERS)}")
    wanted = PARAMETERS[model].split()
    if len(words) - 4 != len(wanted):
        raise DataError(
            f"{where}: {model} takes {len(wanted)} parameters ({PARAMETERS[model]}), got {len(words) - 4}"
        )
    camera_id, width, height = (_integer(words[i], where, "value") for i in (0, 2, 3))
    params = tuple(_numbers(words[4:], where))
    if min(width, height) < 1 or min(params[:2]) <= 0:
        raise DataError(f"{where}: image size and focal lengths must be positive")
    return ColmapCamera(camera_id, model, width, height, params)


def _image(line: str, where: str) -> ColmapImage:
    # a file name may hold spaces, so only the first nine separators count
    words = line.split(maxsplit=9)
    if len(words) < 10:
        raise DataError(
            f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {len(words)} words"
        )
    _integer(words[0], where, "IMAGE_ID")
    pose = _numbers(words[1:8], where)
    norm = math.hypot(*pose[:4])
    # COLMAP writes unit quaternions with at least six digits
    if abs(norm - 1) > 1e-3:
        raise DataError(f"{where}: quaternion of length {norm:.4g}, expected 1")
    rotation = rotation_matrix(*(q / norm for q in pose[:4]))
    extrinsics = np.concatenate([rotation, np.array(pose[4:]).reshape(3, 1)], axis=1)
    return ColmapImage(words[9], _integer(words[8], where, "CAMERA_ID"), extrinsics)


def _check_points(line: tuple[int, str], path: Path) -> None:
    """Catches files whose empty POINTS2D lines were stripped: every other image would go missing."""
    number, text = line
    words = text.split()
    if len(words) % 3:
        raise DataError(
            f"{path}:{number}: expected the POINTS2D line (X Y POINT3D_ID …, or an empty line), "
            f"got {len(words)} words"
        )


def rotation_matrix(w: float, x: float, y: float, z: float) -> Array:
    """(3, 3) rotation of a unit quaternion."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
