"""Writes a COLMAP text model: cameras.txt, images.txt, points3D.txt (https://colmap.github.io/format.html).

One PINHOLE camera per image, in pixels of the original image. COLMAP puts the centre of the first pixel at (0.5, 0.5),
vggtq at (0, 0): half a pixel is added to principal points and observations. Each point is observed once, in the image
that it comes from.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from vggtq.errors import DataError
from vggtq.files.atomic import replacing
from vggtq.geometry import matrix_to_quaternion
from vggtq.predict.files.cloud import Cloud, Points
from vggtq.predict.result import Prediction

FILES = ("cameras.txt", "images.txt", "points3D.txt")


def name_notes(names: tuple[str, ...]) -> list[str]:
    """Notes on names that COLMAP reads only in part. Raises DataError for one that no line of text can hold."""
    for name in names:
        if len(name.splitlines()) != 1 or not _is_text(name):
            raise DataError(f"{name!r}: a name with a line break or of another encoding; rename the image")
    spaced = [name for name in names if any(c.isspace() for c in name)]
    if not spaced:
        return []
    who = f"{spaced[0]} has" if len(spaced) == 1 else f"{len(spaced)} names have"
    return [f"{who} a space, where COLMAP stops reading a name; rename {_them(spaced)} to use colmap/"]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False
    return True


def _them(items: list[str]) -> str:
    return "it" if len(items) == 1 else "them"


def write_colmap(folder: Path, prediction: Prediction, cloud: Cloud, limit: int) -> int:
    """Writes the three files with at most `limit` points and returns how many there are."""
    written = 0
    with ExitStack() as stack:
        streams = []
        for name in FILES:
            temporary = stack.enter_context(replacing(folder / name))
            streams.append(stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n")))
        cameras, images, points3d = streams
        cameras.write("# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy\n")
        images.write("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID …\n")
        points3d.write("# POINT3D_ID X Y Z R G B ERROR IMAGE_ID POINT2D_IDX\n")
        for points in cloud.thinned(limit):
            cameras.write(_camera_line(prediction, points.frame))
            observed = _observations(prediction, points)
            images.write(_image_lines(prediction, points.frame, observed, written + 1))
            points3d.writelines(_point_lines(prediction, points, observed, written + 1))
            written += len(points.xyz)
    return written


def _camera_line(prediction: Prediction, frame: int) -> str:
    K = prediction.source_intrinsics(frame)
    file = prediction.inputs.files[frame]
    params = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5)
    return f"{frame + 1} PINHOLE {file.width} {file.height} {_words(params)}\n"


def _image_lines(prediction: Prediction, frame: int, observed: np.ndarray, first_id: int) -> str:
    pose = prediction.extrinsics[frame]
    x, y, z, w = matrix_to_quaternion(torch.from_numpy(pose[:, :3])).tolist()
    line = f"{frame + 1} {_words((w, x, y, z, *pose[:, 3]))} {frame + 1} {prediction.inputs.names[frame]}"
    observations = " ".join(f"{u!r} {v!r} {first_id + i}" for i, (u, v) in enumerate(observed.tolist()))
    return f"{line}\n{observations}\n"


def _observations(prediction: Prediction, points: Points) -> np.ndarray:
    """(n, 2) float64: where the points were seen, COLMAP's pixels of the original image."""
    return prediction.source_pixels(points.frame, points.pixels.astype(np.float64)) + 0.5


def _point_lines(
    prediction: Prediction, points: Points, observed: np.ndarray, first_id: int
) -> Iterator[str]:
    errors = np.linalg.norm(_projected(prediction, points) - observed, axis=-1)
    rows = zip(points.xyz.tolist(), points.rgb.tolist(), errors.tolist(), strict=True)
    for i, (xyz, rgb, error) in enumerate(rows):
        colour = " ".join(map(str, rgb))
        yield f"{first_id + i} {_words(xyz)} {colour} {error:.6g} {points.frame + 1} {i}\n"


def _projected(prediction: Prediction, points: Points) -> np.ndarray:
    """(n, 2) float64: the points seen by their own camera, COLMAP's pixels of the original image."""
    pose = prediction.extrinsics[points.frame]
    image = (points.xyz @ pose[:, :3].T + pose[:, 3]) @ prediction.source_intrinsics(points.frame).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(image[:, :2] / image[:, 2:] + 0.5)


def _words(numbers: object) -> str:
    """Shortest digits that give back the same float64."""
    return " ".join(repr(float(number)) for number in numbers)  # type: ignore[attr-defined]
