"""Given cameras against the photographs: do matched points lie on the epipolar lines that the cameras imply?

Points are SIFT's (Lowe, IJCV 2004) in images of at most LONGER_SIDE pixels, matched both ways with the ratio test; the error
of a match is the Sampson distance (Hartley and Zisserman, Multiple View Geometry, section 11.4.3). A mistaken convention shows
as an error of many pixels that another convention does not have. The sign of translations leaves epipolar lines as they are, so
that a mistake in it goes unseen, as does any where cameras only move along one axis without turning.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.data.cameras.camera import CONVENTIONS, Array, Camera, CameraList, world_to_camera
from vggtq.data.cameras.lens import Lens, intrinsic_matrix
from vggtq.data.decode import decode
from vggtq.data.scene import CameraCheck
from vggtq.errors import DataError

LONGER_SIDE = 640
FRAMES = 6  # whose pairs are matched
PAIR_MATCHES = 20  # fewer are mostly wrong
MATCHES = 40  # in all, or nothing is said
RATIO = 0.8
WRONG_PX = 3.0  # above this another convention may be right …
FAR_BETTER = 4.0  # … if it has this many times less
POOR_SHARE = 0.02  # of the longer side: cameras that no convention brings below are pointed out


@dataclass(frozen=True)
class Points:
    """positions (n, 2): x, y in pixels of an image whose pinhole camera is `intrinsics` (3, 3)."""

    positions: Array
    descriptors: NDArray[np.uint8]
    intrinsics: Array
    longer_side: int


def check_cameras(name: str, listed: CameraList) -> CameraCheck:
    """The median error under the list's convention. Raises DataError where another one explains the photographs far better."""
    if any(camera.lens is None for camera in listed.cameras):
        return CameraCheck(
            listed.convention, skipped="their file has no intrinsics; give dataset.intrinsics=[fx,fy,cx,cy]"
        )
    poses = np.stack([camera.pose for camera in listed.cameras])
    for frames in _attempts(len(poses)):
        points = {i: _points(listed.cameras[i]) for i in frames}
        matched = list(_matched(points))
        if sum(len(pair) for _, pair in matched) >= MATCHES:
            break
    else:
        return CameraCheck(
            listed.convention, skipped="too few points could be matched between the photographs"
        )
    medians = {c: _median(world_to_camera(poses, c), points, matched) for c in CONVENTIONS}
    side = max(p.longer_side for p in points.values())
    matches = sum(len(pair) for _, pair in matched)
    given, best = medians[listed.convention], min(medians, key=lambda c: medians[c])
    if given > WRONG_PX and medians[best] * FAR_BETTER < given and medians[best] < POOR_SHARE * side:
        raise DataError(
            f"{name}: the cameras do not fit the photographs as {listed.convention} (median epipolar error {given:.1f} px over "
            f"{matches} matches at {side} px) but do as {best} ({medians[best]:.1f} px); set dataset.convention={best}, or "
            "dataset.check_cameras=false to measure against them all the same"
        )
    return CameraCheck(listed.convention, given, side, matches, len(matched))


def _attempts(total: int) -> list[list[int]]:
    """Frames spread over all, and where these have too little in common, neighbours in the middle."""
    if total <= FRAMES:
        return [list(range(total))]
    spread = np.linspace(0, total - 1, FRAMES).round().astype(int).tolist()
    start = (total - FRAMES) // 2
    return [spread, list(range(start, start + FRAMES))]


def _points(camera: Camera) -> Points:
    assert camera.lens is not None
    return _found(camera.image, camera.image.stat().st_mtime_ns, camera.lens)


@functools.lru_cache(64)
def _found(path: Path, changed: int, lens: Lens) -> Points:
    """SIFT's points of one photograph, undistorted; once for all runs of a process. changed: time of the file, ns."""
    from skimage.feature import SIFT

    pixels = decode(path).pixels
    straight = lens.straightened(pixels.size)
    image = (lens.undistort(pixels) if lens.distorts else pixels).convert("L")
    scale = min(1.0, LONGER_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
    sx, sy = size[0] / image.width, size[1] / image.height
    affine = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1.0]])
    sift: Any = SIFT(upsampling=1)
    try:
        sift.detect_and_extract(np.asarray(small) / 255)
        positions, descriptors = sift.positions[:, ::-1], sift.descriptors
    except (RuntimeError, ValueError):  # no feature in the image, or it is smaller than SIFT's kernels
        positions, descriptors = np.empty((0, 2)), np.empty((0, 128), np.uint8)
    return Points(positions, descriptors, affine @ intrinsic_matrix(straight), max(size))


Pair = tuple[tuple[int, int], NDArray[np.int64]]


def _matched(points: dict[int, Points]) -> "Sequence[Pair]":
    """Pairs of frames with enough matches: indices (n, 2) into the points of both."""
    from skimage.feature import match_descriptors

    pairs = []
    for i, j in itertools.combinations(points, 2):
        first, second = points[i].descriptors, points[j].descriptors
        if min(len(first), len(second)) >= PAIR_MATCHES:
            matches = match_descriptors(first, second, max_ratio=RATIO, cross_check=True)
            if len(matches) >= PAIR_MATCHES:
                pairs.append(((i, j), matches))
    return pairs


def _median(poses: Array, points: dict[int, Points], matched: "Sequence[Pair]") -> float:
    """Pixels, over the matches of all pairs. poses: (S, 4, 4) world to camera, OpenCV axes."""
    errors = [
        sampson(
            poses[j] @ np.linalg.inv(poses[i]),
            points[i].intrinsics,
            points[j].intrinsics,
            points[i].positions[matches[:, 0]],
            points[j].positions[matches[:, 1]],
        )
        for (i, j), matches in matched
    ]
    return float(np.median(np.concatenate(errors)))


def sampson(relative: Array, K: Array, K2: Array, points: Array, points2: Array) -> Array:
    """(n,) pixels: Sampson distances of matches (n, 2) under the pose (4, 4) from the first camera to the second.

    Without a baseline there are no epipolar lines and all distances are infinite.
    """
    x, y, z = relative[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    F = np.linalg.inv(K2).T @ cross @ relative[:3, :3] @ np.linalg.inv(K)
    a = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    b = np.concatenate([points2, np.ones((len(points2), 1))], axis=1)
    lines, lines2 = b @ F, a @ F.T
    squares = (lines[:, :2] ** 2).sum(1) + (lines2[:, :2] ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.abs((b * lines2).sum(1)) / np.sqrt(squares)
    return np.where(squares > 1e-18, distances, np.inf)
