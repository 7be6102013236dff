"""ETH3D's laser-scanned depth, brought from the photographs as taken to the undistorted, preprocessed frames.

A depth file is raw little-endian float32, row-major, metres along the optical axis, inf where unknown, with
one value per pixel of the distorted image (THIN_PRISM_FISHEYE, calibration in `dslr_calibration_jpg`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.data.cameras.colmap import ColmapCamera, ColmapImage, read_cameras, read_images
from vggtq.errors import DataError

NOT_FOR_EVALUATION = 2  # bit of the mask images


class DistortedDepth:
    """The depth files of one scene and the distorted cameras that they belong to."""

    def __init__(self, scene: Path, use_masks: bool) -> None:
        self.depths = scene / "ground_truth_depth" / "dslr_images"
        self.masks = scene / "masks_for_images" / "dslr_images" if use_masks else None
        self.calibration = scene / "dslr_calibration_jpg"

    @property
    def exists(self) -> bool:
        """Whether the scene has depth at all."""
        return self.depths.is_dir()

    @property
    def calibrated(self) -> bool:
        """Whether the calibration is there, without which the files are of no use."""
        return all((self.calibration / name).is_file() for name in ("cameras.txt", "images.txt"))

    def files(self, names: Sequence[str]) -> list[Path]:
        """Whatever there is of calibration, depth and masks for the photographs of these names."""
        files = [self.calibration / "cameras.txt", self.calibration / "images.txt"]
        for name in names:
            files.append(self.depths / name)
            if self.masks:
                files.append(self.masks / f"{Path(name).stem}.png")
        return [file for file in files if file.is_file()]

    def on_frames(
        self,
        frames: Sequence[ColmapImage],
        sources: Sequence[ColmapCamera],
        intrinsics: Sequence[NDArray[np.float64]],
        size: tuple[int, int],
        notes: list[str],
    ) -> NDArray[np.float32]:
        """(S, H, W) metres on the preprocessed frames, NaN where unknown; frames without depth go to notes.

        frames, sources: the undistorted images and cameras; intrinsics: (3, 3) each, after preprocessing; size:
        (H, W). One depth file is in memory at a time. Raises DataError.
        """
        cameras = read_cameras(self.calibration / "cameras.txt")
        originals = {
            Path(i.name).name: i for i in read_images(self.calibration / "images.txt", cameras).values()
        }
        depth = np.full((len(frames), *size), np.nan, dtype=np.float32)
        for i, (frame, source) in enumerate(zip(frames, sources, strict=True)):
            file = self.depths / Path(frame.name).name
            original = originals.get(file.name)
            if not file.is_file():
                notes.append(f"{file.name} has no depth file")
            elif original is None or not _same_pose(frame, original):
                notes.append(
                    f"{file.name} has another pose in dslr_calibration_jpg or none: its depth was not used"
                )
            else:
                camera = cameras[original.camera_id]
                mask = self.masks / f"{file.stem}.png" if self.masks else None
                depth[i] = resample_depth(read_depth(file, camera, mask), camera, source, intrinsics[i], size)
        return depth


def _same_pose(a: ColmapImage, b: ColmapImage) -> bool:
    """Undistortion keeps centre and axes; only if the poses agree is z the same in both images."""
    return bool(np.allclose(a.extrinsics, b.extrinsics, atol=1e-3))


def read_depth(path: Path, camera: ColmapCamera, mask: Path | None) -> NDArray[np.float32]:
    """(height, width) metres of the distorted image, NaN where unknown or masked. Raises DataError."""
    shape = (camera.height, camera.width)
    depth = np.array(open_depth(path, camera), dtype=np.float32)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    if mask is not None and mask.is_file():
        try:
            with Image.open(mask) as file:
                bits = np.asarray(file)
        except (OSError, SyntaxError) as error:
            raise DataError(f"cannot read mask {mask}: {error}") from error
        if bits.shape != shape:
            raise DataError(f"{mask} has shape {bits.shape}, its depth {shape}; unpack the masks again")
        depth[(bits & NOT_FOR_EVALUATION) != 0] = np.nan
    return depth


def open_depth(path: Path, camera: ColmapCamera) -> NDArray[np.float32]:
    """(height, width) as it lies on the disk, of which pages are read when they are used. Raises DataError."""
    if path.stat().st_size != 4 * camera.height * camera.width:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected {4 * camera.height * camera.width} "
            f"({camera.width}x{camera.height} float32); unpack the depth again"
        )
    return np.memmap(path, dtype="<f4", mode="r", shape=(camera.height, camera.width))


def resample_depth(
    distorted: NDArray[np.float32],
    camera: ColmapCamera,
    undistorted: ColmapCamera,
    intrinsics: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Nearest depth of the distorted image for every pixel of the preprocessed, undistorted frame.

    distorted: (h, w) of `camera`; undistorted: the PINHOLE camera of the image before preprocessing, which
    bounds where the frame shows the photograph and not padding; intrinsics: (3, 3) of the preprocessed frame;
    size: (H, W). Returns (H, W), NaN where unknown. z needs no conversion: both cameras have the same axes.
    """
    v, u = np.mgrid[: size[0], : size[1]].astype(np.float64)
    x = (u - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1]
    fx, fy, cx, cy = undistorted.params
    inside = _within(x * fx + cx - 0.5, undistorted.width) & _within(y * fy + cy - 0.5, undistorted.height)
    column, row = camera.project(x, y)
    inside &= _within(column, camera.width) & _within(row, camera.height)
    depth = np.full(size, np.nan, dtype=np.float32)
    depth[inside] = distorted[np.rint(row[inside]).astype(int), np.rint(column[inside]).astype(int)]
    return depth


def _within(coordinate: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    # exactly on the border rint could go either way
    return (coordinate > -0.5) & (coordinate < count - 0.5)
