"""ETH3D in small sets of overlapping images, as the benchmark of MapAnything draws them.

Keetha et al., MapAnything: Universal Feed-Forward Metric 3D Reconstruction, 2025, and its published configuration: 10 sets of
each of the 13 scenes, whose images form one connected component of a graph; two images are joined where at least a share of
0.025 of their pixels is seen in the other. How the share is computed and in which order images are drawn is not written down:
here it is the mean of both directions, from laser-scanned depth, and images join one by one at random.
"""

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggtq.data.cameras.colmap import ColmapCamera, ColmapImage, read_cameras, read_images
from vggtq.data.eth3d.depth import DistortedDepth, open_depth, resample_depth
from vggtq.data.eth3d.scenes import ETH3D, ETH3DSequences
from vggtq.data.preprocess import ImageOptions
from vggtq.data.scene import Scene
from vggtq.data.select import natural_key
from vggtq.errors import ConfigError, DataError

WIDTH = 96  # of the depth maps by which images are compared, pixels
SAME_DEPTH = (
    0.05  # relative: a point that lies farther than this behind what the other image shows is hidden there
)


@dataclass
class ETH3DSets(ImageOptions):
    """`count` sets of `frames` images of each scene. root, scene, use_depth, use_masks: as in ETH3D."""

    name: str = "eth3d_sets"
    root: str = ETH3D.root
    scene: str = "all"
    use_depth: bool = True
    use_masks: bool = True
    frames: int = 2
    count: int = 10
    covisibility: float = 0.025
    seed: int = 777

    def __post_init__(self) -> None:
        super().__post_init__()
        self._of(self.scene)  # which checks it
        for key, value, least in (("frames", self.frames, 2), ("count", self.count, 1)):
            if value < least:
                raise ConfigError(f"dataset.{key}={value}: must be {least} or more")
        if not 0 < self.covisibility < 1:
            raise ConfigError(f"dataset.covisibility={self.covisibility}: is a share between 0 and 1")

    def scenes(self) -> Iterator[Scene]:
        """Yields set after set, named scene/number. Raises DataError where a scene has no such set."""
        for name, part in self._sets():
            for scene in part.scenes():
                yield replace(scene, name=name)

    def inputs(self) -> list[Path]:
        """The files of all sets, each once."""
        return list(dict.fromkeys(file for _, part in self._sets() for file in part.inputs()))

    def calibration(self, count: int, frames: int, seed: int) -> ETH3DSequences:
        """Sequences of other scenes."""
        return self._of(self.scene).calibration(count, frames, seed)

    def _sets(self) -> Iterator[tuple[str, ETH3D]]:
        for name in self._of(self.scene).names:
            folder = Path(self.root).expanduser() / name
            listing = folder / "dslr_calibration_undistorted" / "images.txt"
            changed = listing.stat().st_mtime_ns if listing.is_file() else 0
            drawn = _draw(folder, self.frames, self.count, self.covisibility, self.seed, changed)
            for number, images in enumerate(drawn):
                yield f"{name}/{number}", self._of(name, list(images))

    def _of(self, scene: str, images: list[str] | None = None) -> ETH3D:
        """A scene, or some of its images."""
        return ETH3D(
            **self.of_images,
            root=self.root,
            scene=scene,
            use_depth=self.use_depth,
            use_masks=self.use_masks,
            images=images,
        )


@functools.lru_cache(64)
def _draw(
    folder: Path, frames: int, count: int, least: float, seed: int, changed: int
) -> tuple[tuple[str, ...], ...]:
    """Names of the images of each set. changed: when the list of images was written."""
    calibration = folder / "dslr_calibration_undistorted"
    cameras = read_cameras(calibration / "cameras.txt")
    images = sorted(
        read_images(calibration / "images.txt", cameras).values(), key=lambda i: natural_key(i.name)
    )
    joined = covisibility(folder, images, [cameras[image.camera_id] for image in images]) >= least
    random = np.random.default_rng([seed, zlib.crc32(folder.name.encode())])
    sets = []
    for _ in range(count):
        for start in random.permutation(len(images)):
            if (found := _grown(int(start), joined, frames, random)) is not None:
                sets.append(tuple(Path(images[i].name).name for i in found))
                break
        else:
            raise DataError(
                f"{folder}: no {frames} of its {len(images)} images are joined by a covisibility of {least}; use fewer "
                f"frames, or a lower dataset.covisibility"
            )
    return tuple(sets)


def _grown(
    start: int, joined: NDArray[np.bool_], frames: int, random: np.random.Generator
) -> list[int] | None:
    """Images that join one after the other, each at random among those joined to one that is there."""
    chosen = [start]
    while len(chosen) < frames:
        near: NDArray[np.bool_] = np.any(joined[chosen], axis=0, keepdims=False)
        near[chosen] = False
        if not near.any():
            return None
        chosen.append(int(random.choice(np.flatnonzero(near))))
    return chosen


def covisibility(
    folder: Path, images: Sequence[ColmapImage], cameras: Sequence[ColmapCamera]
) -> NDArray[np.float64]:
    """(S, S): the share of the pixels with depth of one image that the other shows too, mean of both directions.

    Raises DataError where there is no depth.
    """
    depths = _small_depths(folder, images, cameras)
    poses = np.stack([np.vstack([image.extrinsics, [0, 0, 0, 1]]) for image in images])
    intrinsics = [_scaled(camera)[0] for camera in cameras]
    share = np.eye(len(images))
    for i, depth in enumerate(depths):
        row, column = np.nonzero(np.isfinite(depth))
        if not len(row):
            continue
        z = depth[row, column].astype(np.float64)
        points = np.linalg.solve(intrinsics[i], np.stack([column, row, np.ones_like(row)]) * z)
        world = np.linalg.inv(poses[i]) @ np.vstack([points, np.ones(len(z))])
        for j in range(len(images)):
            if j != i:
                share[i, j] = _seen(poses[j, :3] @ world, intrinsics[j], depths[j]).mean()
    return (share + share.T) / 2


def _seen(
    points: NDArray[np.float64], intrinsics: NDArray[np.float64], depth: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether points (3, N) of a camera's frame lie in its image and are not hidden there. Unknown depth hides nothing."""
    z = np.maximum(points[2], 1e-6)
    u, v, _ = np.rint(intrinsics @ points / z).astype(int)
    inside = (points[2] > 0) & (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
    there = depth[np.where(inside, v, 0), np.where(inside, u, 0)]
    result: NDArray[np.bool_] = inside & ~(z > (1 + SAME_DEPTH) * there)
    return result


def _scaled(camera: ColmapCamera) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Intrinsics and size (H, W) of the camera's image at WIDTH pixels, pixel centres at whole numbers."""
    scale = WIDTH / camera.width
    intrinsics = camera.pinhole().copy()
    intrinsics[:2, 2] += 0.5
    intrinsics[:2] *= scale
    intrinsics[:2, 2] -= 0.5
    return intrinsics, (max(1, round(camera.height * scale)), WIDTH)


def _small_depths(
    folder: Path, images: Sequence[ColmapImage], cameras: Sequence[ColmapCamera]
) -> list[NDArray[np.float32]]:
    """One (H, W) for each image, NaN where unknown. Of the files only the pixels that are needed are read."""
    files = DistortedDepth(folder, use_masks=False)
    if not (files.exists and files.calibrated):
        raise DataError(
            f"{folder} has no depth, by which images that overlap are found; run: vggtq download {folder.name} parts=depth"
        )
    distorted = read_cameras(files.calibration / "cameras.txt")
    originals = {
        Path(i.name).name: i for i in read_images(files.calibration / "images.txt", distorted).values()
    }
    depths = []
    for image, camera in zip(images, cameras, strict=True):
        intrinsics, size = _scaled(camera)
        path, original = files.depths / Path(image.name).name, originals.get(Path(image.name).name)
        depth = np.full(size, np.nan, dtype=np.float32)
        if original is not None and path.is_file():
            source = distorted[original.camera_id]
            depth = resample_depth(open_depth(path, source), source, camera, intrinsics, size)
            depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
        depths.append(depth)
    return depths
