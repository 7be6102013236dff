"""Two real photographs with exact relative pose and dense depth, shipped inside scikit-image.

Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014: the scene
Motorcycle at a quarter of its resolution. For a pixel of the left image with disparity d:
x_R = x_L − d and z = f·B / (d + doffs).
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vggtq.data.preprocess import ImageOptions
from vggtq.data.scene import GroundTruth, Scene

FOCAL_PX = 994.978
BASELINE_M = 0.193001
DOFFS_PX = 31.086  # cx of the right camera minus cx of the left one
# The published numbers, taken as pixel centres at integers. Averaging 4x4 blocks may have moved them by
# 3/8 px, which changes neither depth nor relative pose.
CENTRE_PX = (311.193, 254.877)


@dataclass
class Motorcycle(ImageOptions):
    """Frame 0 is the left view and the world frame; depth exists for the left view only. Units are metres."""

    name: str = "motorcycle"

    def scenes(self) -> Iterator[Scene]:
        """Yields the one scene, S = 2. Needs no network: the files are part of the scikit-image wheel."""
        from skimage.data import stereo_motorcycle

        left, right, disparity = stereo_motorcycle()
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"motorcycle_{side}.png") for side in ("left", "right")]
            for path, pixels in zip(paths, (left, right), strict=True):
                Image.fromarray(pixels).save(path, compress_level=0)
            images, transforms, files, notes = self.preprocessed(paths)
        depth = np.full((2, *images.shape[-2:]), np.nan, dtype=np.float32)
        depth[0] = transforms[0].depth(depth_from_disparity(disparity))
        intrinsics = [t.intrinsics(K) for t, K in zip(transforms, intrinsic_matrices(), strict=True)]
        truth = GroundTruth.of(list(extrinsic_matrices()), intrinsics, depth, metric=True)
        # Pillow versions encode PNG differently, the pixels never change
        hashed = tuple(
            dataclasses.replace(file, path=path.name, sha256=hashlib.sha256(pixels.tobytes()).hexdigest())
            for file, path, pixels in zip(files, paths, (left, right), strict=True)
        )
        yield Scene(self.name, images, hashed, truth, tuple(notes))

    def inputs(self) -> list[Path]:
        """None: the images belong to the version of scikit-image."""
        return []


def depth_from_disparity(disparity: np.ndarray) -> np.ndarray:
    """(h, w) pixels, inf or NaN where unknown, to (h, w) float32 metres, NaN where unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = FOCAL_PX * BASELINE_M / (disparity.astype(np.float64) + DOFFS_PX)
    return np.where(np.isfinite(disparity) & (depth > 0), depth, np.nan).astype(np.float32)


def intrinsic_matrices() -> np.ndarray:
    """(2, 3, 3) float64, left and right, pixels of the original 741x500 images."""
    cx, cy = CENTRE_PX
    left = np.array([[FOCAL_PX, 0, cx], [0, FOCAL_PX, cy], [0, 0, 1]])
    return np.stack([left, left + np.array([[0, 0, DOFFS_PX], [0, 0, 0], [0, 0, 0]])])


def extrinsic_matrices() -> np.ndarray:
    """(2, 3, 4) float64, world to camera: the right camera stands at (B, 0, 0), so its points move by −B."""
    matrices = np.stack([np.eye(3, 4), np.eye(3, 4)])
    matrices[1, 0, 3] = -BASELINE_M
    return matrices
