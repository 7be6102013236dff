"""COLMAP models, text (cameras.txt, images.txt) and binary (cameras.bin, images.bin).

Camera models as in https://colmap.github.io/cameras.html, files as in https://colmap.github.io/format.html. COLMAP puts the
centre of the first pixel at (0.5, 0.5); lenses and matrices returned here have it at (0, 0). Points and the 2-D observations
are not read.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vggtq.data.cameras.camera import Camera, CameraList
from vggtq.data.cameras.lens import Lens, intrinsic_matrix
from vggtq.data.select import natural_key
from vggtq.errors import DataError
from vggtq.geometry import quaternion_to_matrix

Array = NDArray[np.float64]

# In the order of their numbers in binary files. One f stands for both focal lengths.
PARAMETERS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "FOV": "fx fy cx cy omega",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
}
K = TypeVar("K")
V = TypeVar("V")

DISTORTION = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


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
        lens = self.lens() if self.model in ("SIMPLE_PINHOLE", "PINHOLE") else None
        if lens is None:
            raise DataError(
                f"camera {self.camera_id} is {self.model}, expected PINHOLE; point the data set at the "
                "calibration of the undistorted images"
            )
        return intrinsic_matrix(lens)

    def lens(self) -> Lens:
        """With pixel centres at integers. Raises DataError for a fisheye model."""
        if "FISHEYE" in self.model or self.model == "FOV":
            raise DataError(
                f"camera {self.camera_id} is {self.model}: what a fisheye lens sees does not fit on a perspective image; "
                "undistort the photographs first (colmap image_undistorter) and name its output folder"
            )
        named = dict(zip(PARAMETERS[self.model].split(), self.params, strict=True))
        fx, fy = named.get("fx", named.get("f", 0.0)), named.get("fy", named.get("f", 0.0))
        distortion = tuple(named.get(name, 0.0) for name in DISTORTION)
        return Lens(fx, fy, named["cx"] - 0.5, named["cy"] - 0.5, distortion if any(distortion) else ())

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


def read_model(folder: Path) -> CameraList:
    """All registered images of a model, in natural order of names; of its binary files where it has both. Raises DataError."""
    suffix = ".bin" if (folder / "images.bin").is_file() else ".txt"
    files = [folder / f"cameras{suffix}", folder / f"images{suffix}"]
    if suffix == ".bin":
        cameras = dict(_each(files[0], _binary_camera))
        images = dict(_each(files[1], _binary_image))
    else:
        cameras = read_cameras(files[0])
        images = read_images(files[1], cameras)
    found = []
    for image in sorted(images.values(), key=lambda image: natural_key(image.name)):
        if (camera := cameras.get(image.camera_id)) is None:
            raise DataError(f"{files[1]}: camera {image.camera_id} of {image.name} is not in {files[0].name}")
        pose = np.concatenate([image.extrinsics, [[0.0, 0.0, 0.0, 1.0]]])
        found.append(Camera(Path(image.name), pose, camera.lens(), (camera.width, camera.height)))
    if not found:
        raise DataError(f"{files[1]}: no image in the file")
    return CameraList(found, "opencv_w2c", files, named=True)


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
    camera_id, width, height = (_integer(words[i], where, "value") for i in (0, 2, 3))
    return _checked(
        ColmapCamera(camera_id, words[1], width, height, tuple(_numbers(words[4:], where))), where
    )


def _checked(camera: ColmapCamera, where: str) -> ColmapCamera:
    if camera.model not in PARAMETERS:
        raise DataError(
            f"{where}: camera model {camera.model} is not supported; valid: {', '.join(PARAMETERS)}"
        )
    wanted = PARAMETERS[camera.model].split()
    if len(camera.params) != len(wanted):
        raise DataError(
            f"{where}: {camera.model} takes {len(wanted)} parameters ({PARAMETERS[camera.model]}), "
            f"got {len(camera.params)}"
        )
    focal = camera.params[: 1 if wanted[0] == "f" else 2]
    if min(camera.width, camera.height) < 1 or min(focal) <= 0 or not np.isfinite(camera.params).all():
        raise DataError(f"{where}: image size and focal lengths must be positive and finite")
    return camera


def _image(line: str, where: str) -> ColmapImage:
    # a file name may hold spaces, so only the first nine separators count
    words = line.split(maxsplit=9)
    if len(words) < 10:
        raise DataError(
            f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {len(words)} words"
        )
    _integer(words[0], where, "IMAGE_ID")
    return _posed(words[9], _integer(words[8], where, "CAMERA_ID"), _numbers(words[1:8], where), where)


def _posed(name: str, camera_id: int, pose: list[float], where: str) -> ColmapImage:
    """pose: qw, qx, qy, qz, tx, ty, tz."""
    norm = math.hypot(*pose[:4])
    # COLMAP writes unit quaternions with at least six digits
    if not abs(norm - 1) <= 1e-3 or not np.isfinite(pose).all():
        raise DataError(f"{where}: quaternion of length {norm:.4g}, expected 1")
    rotation = quaternion_to_matrix(torch.tensor([*pose[1:4], pose[0]], dtype=torch.float64)).numpy()
    return ColmapImage(name, camera_id, np.concatenate([rotation, np.array(pose[4:]).reshape(3, 1)], axis=1))


def _check_points(line: tuple[int, str], path: Path) -> None:
    """Catches files whose empty POINTS2D lines were stripped: every other image would go missing."""
    number, text = line
    words = text.split()
    if len(words) % 3:
        raise DataError(
            f"{path}:{number}: expected the POINTS2D line (X Y POINT3D_ID …, or an empty line), "
            f"got {len(words)} words"
        )


def _each(path: Path, read: Callable[[BinaryIO, str], tuple[K, V]]) -> Iterator[tuple[K, V]]:
    """The entries of a binary file. Raises DataError where it ends too soon."""
    try:
        with path.open("rb") as stream:
            (number,) = struct.unpack("<Q", stream.read(8))
            for index in range(number):
                yield read(stream, f"{path}, entry {index}")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no COLMAP file ({error}); copy or export it again") from error


def _binary_camera(stream: BinaryIO, where: str) -> tuple[int, ColmapCamera]:
    camera_id, model, width, height = _unpack("<iiQQ", stream)
    if not 0 <= model < len(PARAMETERS):
        raise DataError(f"{where}: camera model {model} is not supported; valid: 0 to {len(PARAMETERS) - 1}")
    name = list(PARAMETERS)[model]
    params = _unpack(f"<{len(PARAMETERS[name].split())}d", stream)
    return camera_id, _checked(ColmapCamera(camera_id, name, width, height, params), where)


def _binary_image(stream: BinaryIO, where: str) -> tuple[str, ColmapImage]:
    _, *pose, camera_id = _unpack("<i7di", stream)
    name = bytearray()
    while (byte := stream.read(1)) not in (b"\0", b""):
        name += byte
    (points,) = _unpack("<Q", stream)
    stream.seek(24 * points, 1)  # x, y and the point's number
    return name.decode(), _posed(name.decode(), camera_id, pose, where)


def _unpack(form: str, stream: BinaryIO) -> tuple[Any, ...]:
    return struct.unpack(form, stream.read(struct.calcsize(form)))
