"""Cameras in text files: Strecha's .camera, pose files of 7-Scenes, TUM trajectories, RealEstate10K, MVSNet's (DTU).

    Strecha    0000.jpg.camera     K (3 lines), a line of distortion that is 0, R (3 lines), t, width height
    7-Scenes   frame-000000.pose.txt beside frame-000000.color.png: 4x4, camera to world
    TUM        groundtruth.txt     timestamp tx ty tz qx qy qz qw, with rgb.txt beside it: timestamp file
    RealEstate10K                  the address of a video, then lines: timestamp fx fy cx cy 0 0 and 3x4, world to camera
    MVSNet     00000000_cam.txt    "extrinsic" 4x4, world to camera, "intrinsic" 3x3, depth range

All have OpenCV axes. The first three map camera to world, the others world to camera.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from vggtq.data.cameras.camera import Array, Camera, CameraList, of_matrix, pinhole, pose_matrix
from vggtq.data.select import natural_key
from vggtq.errors import DataError
from vggtq.geometry import quaternion_to_matrix

SECONDS_APART = 0.02  # of a pose and an image of a TUM trajectory, as in the benchmark's own tools


def read_strecha(folder: Path) -> CameraList:
    """All .camera files of a folder (Strecha et al., CVPR 2008: P = K [Rᵀ | −Rᵀ t]). Raises DataError."""
    files = _sorted(folder.glob("*.camera"))
    cameras = []
    for file in files:
        rows = numbers_of(file)
        if [len(row) for row in rows] != [3] * 8 + [2]:
            raise DataError(
                f"{file}: expected lines of K, distortion, R, t and size: eight of 3 numbers, one of 2"
            )
        if any(rows[3]):
            raise DataError(f"{file}: distortion {rows[3]} is not read; undistort the photographs first")
        pose = np.concatenate([rows[4:7], np.array(rows[7]).reshape(3, 1)], axis=1)
        size = (int(rows[8][0]), int(rows[8][1]))
        lens = of_matrix(rows[:3], f"{file}: K")
        cameras.append(
            Camera(Path(file.name.removesuffix(".camera")), pose_matrix(pose, str(file)), lens, size)
        )
    return CameraList(cameras, "opencv_c2w", files, named=True)


def read_pose_files(folder: Path) -> CameraList:
    """All .pose.txt files of a folder, each of the .color.png beside it; they have no intrinsics. Raises DataError."""
    files = _sorted(folder.glob("*.pose.txt"))
    cameras = []
    for file in files:
        stem = file.name.removesuffix(".pose.txt")
        depth = next((d for d in (folder / f"{stem}.depth.proj.png",) if d.is_file()), None)
        cameras.append(
            Camera(folder / f"{stem}.color.png", pose_matrix(numbers_of(file), str(file)), depth=depth)
        )
    return CameraList(cameras, "opencv_c2w", files, metric=True, no_depth=65535)


def read_tum(path: Path) -> CameraList:
    """A trajectory and the images of rgb.txt beside it, each with the pose nearest in time; no intrinsics. Raises DataError."""
    index = path.with_name("rgb.txt")
    if not index.is_file():
        raise DataError(f"{path} has poses by time; the list of images, {index}, is missing (timestamp file)")
    rows = np.array(_table(path, 8))
    cameras, files = [], [path, index]
    for line, words in _lines(index):
        if len(words) != 2:
            raise DataError(f"{index}:{line}: expected a timestamp and a file")
        times = np.abs(rows[:, 0] - _number(words[0], f"{index}:{line}"))
        nearest = int(times.argmin())
        if times[nearest] <= SECONDS_APART:
            cameras.append(
                Camera(path.parent / words[1], _tum_pose(rows[nearest], f"{path}, pose {nearest}"))
            )
    if not cameras:
        raise DataError(
            f"{path}: no pose within {SECONDS_APART} s of an image of rgb.txt; are both of one recording?"
        )
    return CameraList(cameras, "opencv_c2w", files, metric=True)


def _tum_pose(row: Array, where: str) -> Array:
    rotation = quaternion_to_matrix(torch.from_numpy(row[4:])).numpy()
    return pose_matrix(np.concatenate([rotation, row[1:4, None]], axis=1), where)


def read_realestate(path: Path, sizes: dict[str, tuple[int, int]]) -> CameraList:
    """The frames of one file of RealEstate10K. sizes: of the images that are there, by timestamp. Raises DataError."""
    lines = _lines(path)
    if not lines or not lines[0][1][0].startswith("http"):
        raise DataError(f"{path}: expected the address of a video in the first line, as RealEstate10K has it")
    cameras = []
    for line, words in lines[1:]:
        if words[0] in sizes:
            row = [_number(word, f"{path}:{line}") for word in words]
            if len(row) != 19:
                raise DataError(f"{path}:{line}: expected 19 numbers, got {len(row)}")
            (width, height), (fx, fy, cx, cy) = sizes[words[0]], row[1:5]
            lens = pinhole((fx * width, fy * height, cx * width - 0.5, cy * height - 0.5))
            pose = pose_matrix(np.reshape(row[7:], (3, 4)), f"{path}:{line}")
            cameras.append(Camera(Path(words[0]), pose, lens, (width, height)))
    return CameraList(cameras, "opencv_w2c", [path])


def read_mvsnet(folder: Path) -> CameraList:
    """All _cam.txt files of a folder, of images/00000000.jpg beside it; translations in millimetres. Raises DataError."""
    files = _sorted(folder.glob("*_cam.txt"))
    cameras = []
    for file in files:
        words = [word for _, line in _lines(file) for word in line]
        if len(words) < 27 or (words[0], words[17]) != ("extrinsic", "intrinsic"):
            raise DataError(f"{file}: expected extrinsic, 4x4 numbers, intrinsic, 3x3 numbers")
        numbers = [_number(word, str(file)) for word in (*words[1:17], *words[18:27])]
        pose = pose_matrix(np.reshape(numbers[:16], (4, 4)), str(file))
        pose[:3, 3] /= 1000
        lens = of_matrix(np.reshape(numbers[16:], (3, 3)), f"{file}: intrinsic")
        stem = file.name.removesuffix("_cam.txt")
        images = (folder.parent / "images" / f"{stem}{suffix}" for suffix in (".jpg", ".png"))
        image = next((i for i in images if i.is_file()), folder.parent / "images" / f"{stem}.jpg")
        depth = folder.parent / "depths" / f"{stem}.pfm"
        cameras.append(Camera(image, pose, lens, depth=depth if depth.is_file() else None))
    return CameraList(cameras, "opencv_w2c", files, metric=True)


def is_trajectory(path: Path) -> bool:
    """Whether the first line that is no comment has eight numbers, as TUM's."""
    try:
        return len(_lines(path)[0][1]) == 8 and bool(numbers_of(path))
    except (DataError, IndexError):
        return False


def numbers_of(path: Path) -> list[list[float]]:
    """The numbers of each line. Raises DataError."""
    return [[_number(word, f"{path}:{line}") for word in words] for line, words in _lines(path)]


def _table(path: Path, columns: int) -> list[list[float]]:
    rows = numbers_of(path)
    for index, row in enumerate(rows):
        if len(row) != columns:
            raise DataError(f"{path}, pose {index}: expected {columns} numbers, got {len(row)}")
    if not rows:
        raise DataError(f"{path}: no pose in the file")
    return rows


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Words of each line that is neither empty nor a comment, with its number."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    lines = ((number, line.split()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, words) for number, words in lines if words and not words[0].startswith("#")]


def _number(word: str, where: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _sorted(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: natural_key(file.name))
