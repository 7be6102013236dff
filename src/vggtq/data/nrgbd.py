"""Neural RGB-D's rendered rooms (Azinović et al., CVPR 2022), in the layout in which their authors publish them.

SCENE/images/img0.png       colour
SCENE/depth/depth0.png      16 bits, millimetres, exact; depth_filtered and depth_with_noise are not read
SCENE/focal.txt             one number, pixels; the principal point is half the width and half the height
SCENE/poses.txt             four lines of four numbers for each image: camera to world, OpenGL axes, metres; nan where unknown
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from vggtq.data.cameras.camera import Array, Camera, CameraList, pinhole, pose_matrix
from vggtq.data.cameras.lens import Lens
from vggtq.data.cameras.text_files import numbers_of
from vggtq.data.published import Walks
from vggtq.data.select import count
from vggtq.errors import DataError


@dataclass
class NeuralRGBD(Walks):
    """Rendered rooms with exact depth, a walk through each. Units are metres. all: the nine rooms of the published archive."""

    name: str = "nrgbd"
    root: str = "data/neural_rgbd_data"

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "all": (
            *("breakfast_room", "complete_kitchen", "green_room", "grey_white_room", "kitchen"),
            *("morning_apartment", "staircase", "thin_geometry", "whiteroom"),
        )
    }

    def sequences(self) -> list[str]:
        return self._below(self.places(), lambda path: (path / "poses.txt").is_file(), "poses.txt")

    def read(self, sequence: str) -> CameraList:
        folder = self.folder() / sequence
        poses = _poses(folder / "poses.txt")
        images = len(list((folder / "images").glob("img*.png")))
        if images != len(poses):
            raise DataError(
                f"{folder}: poses.txt has {count(len(poses), 'camera')}, images/ has {count(images, 'file')} named img0.png, "
                f"img1.png, …; there must be as many of both: unpack {sequence} again"
            )
        lens = _lens(folder)
        cameras = [_camera(folder, i, pose, lens) for i, pose in enumerate(poses) if pose is not None]
        lost = len(poses) - len(cameras)
        if not cameras:
            raise DataError(f"{folder / 'poses.txt'}: no camera has a pose, all are nan; unpack it again")
        notes = (f"{count(lost, 'image')} without a pose left out",) if lost else ()
        files = [folder / "poses.txt", folder / "focal.txt"]
        return CameraList(cameras, "opengl_c2w", files, metric=True, notes=notes)


def _camera(folder: Path, index: int, pose: Array, lens: Lens) -> Camera:
    depth = folder / "depth" / f"depth{index}.png"
    image = folder / "images" / f"img{index}.png"
    return Camera(image, pose, lens, depth=depth if depth.is_file() else None)


def _poses(path: Path) -> list[Array | None]:
    """(4, 4) of each image; None where it is not known. Raises DataError."""
    rows = numbers_of(path)
    wrong = next((i for i, row in enumerate(rows) if len(row) != 4), None)
    if wrong is not None:
        raise DataError(
            f"{path}: row {wrong} has {count(len(rows[wrong]), 'number')}, each has four; unpack it again"
        )
    if not rows or len(rows) % 4:
        raise DataError(
            f"{path}: {count(len(rows), 'row')}, expected four of each image; it was cut off, unpack it again"
        )
    matrices = np.array(rows, dtype=np.float64).reshape(-1, 4, 4)
    return [
        pose_matrix(matrix, f"{path}, camera {i}") if np.isfinite(matrix).all() else None
        for i, matrix in enumerate(matrices)
    ]


def _lens(folder: Path) -> Lens:
    """Of the focal length and the size of the first image. Raises DataError."""
    numbers = [number for row in numbers_of(folder / "focal.txt") for number in row]
    if len(numbers) != 1 or not np.isfinite(numbers[0]) or numbers[0] <= 0:
        raise DataError(
            f"{folder / 'focal.txt'}: {numbers} is not one focal length above 0, pixels; unpack it again"
        )
    first = folder / "images" / "img0.png"
    try:
        with Image.open(first) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"cannot read {first}: {error}; unpack it again") from error
    return pinhole((numbers[0], numbers[0], width / 2, height / 2))
