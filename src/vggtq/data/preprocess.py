"""Image files to network input, bit for bit as VGGT (Wang et al. 2025) prepares them, and what that does to pixels.

Each image is resized so that one side is `size` and both are multiples of the patch, then cropped or padded with
white. EXIF orientation is ignored. Left out: square centring on black.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vggtq.data.scene import ImageFile
from vggtq.errors import ConfigError, DataError

HEIC_SUFFIXES = (".heic", ".heif")


class ImageInputError(DataError, ValueError):
    """Images that can be read but not be given to the network."""


@dataclass(frozen=True)
class FrameTransform:
    """Source pixels to preprocessed ones, centres at integers: u' = (u + 0.5)·scale_x − 0.5 + offset_x, v' alike."""

    scale_x: float
    scale_y: float
    offset_x: float  # pixels; negative where the crop removed columns, positive where padding was added
    offset_y: float
    width: int  # of the preprocessed frame
    height: int
    source_width: int
    source_height: int

    def intrinsics(self, intrinsics: np.ndarray) -> np.ndarray:
        """K (3, 3) of the source image to that of the preprocessed frame, float64."""
        sx, sy = self.scale_x, self.scale_y
        affine = [
            [sx, 0.0, 0.5 * sx - 0.5 + self.offset_x],
            [0.0, sy, 0.5 * sy - 0.5 + self.offset_y],
            [0.0, 0.0, 1.0],
        ]
        return np.array(affine) @ np.asarray(intrinsics, dtype=np.float64)

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """(h, w) float32 of the source to (height, width), nearest neighbour, NaN where the frame is padding.

        Nearest, since a mean of depths on both sides of an edge lies on no surface.
        """
        if depth.shape != (self.source_height, self.source_width):
            raise DataError(
                f"depth map of {depth.shape[1]}x{depth.shape[0]} for an image of "
                f"{self.source_width}x{self.source_height}; both must have one size"
            )
        rows = np.floor((np.arange(self.height) + 0.5 - self.offset_y) / self.scale_y).astype(int)
        cols = np.floor((np.arange(self.width) + 0.5 - self.offset_x) / self.scale_x).astype(int)
        inside = _within(rows, self.source_height)[:, None] & _within(cols, self.source_width)
        rows, cols = rows.clip(0, self.source_height - 1), cols.clip(0, self.source_width - 1)
        return np.where(inside, depth[np.ix_(rows, cols)], np.nan).astype(np.float32)


def check_options(mode: str, size: int, patch: int) -> None:
    """Raises ConfigError for options that cannot work, before an image is read."""
    if mode not in ("crop", "pad"):
        raise ConfigError("Mode must be either 'crop' or 'pad'")
    if patch < 1 or size < patch or size % patch:
        lower = max(size // max(patch, 1), 1) * patch
        raise ConfigError(f"image size {size} is not a multiple of the patch size {patch}; try {lower}")


def preprocess_images(
    paths: Sequence[str | Path], mode: str = "crop", size: int = 518, patch: int = 14
) -> Tensor:
    """(S, 3, H, W) float32 RGB in [0, 1]. crop keeps the width, pad makes every frame size × size."""
    return preprocess(paths, mode, size, patch)[0]


def preprocess(
    paths: Sequence[str | Path], mode: str = "crop", size: int = 518, patch: int = 14
) -> tuple[Tensor, list[FrameTransform], list[ImageFile], list[str]]:
    """Images (S, 3, H, W) float32 RGB in [0, 1], one transform and one file entry per image, and notes.

    Images of different sizes, which only crop can produce, are padded with white to the largest; a note says so.
    """
    if not paths:
        raise ImageInputError("At least 1 image is required")
    check_options(mode, size, patch)
    frames, transforms, files = [], [], []
    for path in map(Path, paths):
        frame, transform = _prepare(path, mode, size, patch)
        frames.append(frame)
        transforms.append(transform)
        files.append(_describe(path, transform))
    sizes = sorted({(t.width, t.height) for t in transforms})
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    notes = []
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sizes)
        notes.append(f"images differ in size ({listed}); padded with white to {width}x{height}")
    transforms = [_padded(t, width, height) for t in transforms]
    images = torch.stack([_place(f, t) for f, t in zip(frames, transforms, strict=True)])
    return images, transforms, files, notes


def load_image(path: str | Path) -> Image.Image:
    """Decodes to 8-bit RGB, with RGBA over white; every other mode loses its alpha. Raises DataError."""
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.mode != "RGBA":
                return image.convert("RGB")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(_unidentified(path)) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image; check the path") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels to decode safely; downscale it first") from error
    # Pillow reports damage inside a known format with any of these.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({reason}); copy or export it again") from error


def frame_transform(
    width: int, height: int, mode: str = "crop", size: int = 518, patch: int = 14
) -> tuple[int, int, FrameTransform]:
    """Width and height of the preprocessed frame of a width × height image, and how its pixels get there."""
    check_options(mode, size, patch)
    new_w, new_h = resized_size(width, height, mode, size, patch)
    if new_w == 0 or new_h == 0:
        raise ImageInputError(
            f"height and width must be > 0: an image of {width}x{height} becomes {new_w}x{new_h}; "
            "its aspect ratio is too extreme, crop it first"
        )
    final_w, final_h = (size, size) if mode == "pad" else (new_w, min(new_h, size))
    transform = FrameTransform(new_w / width, new_h / height, 0.0, 0.0, new_w, new_h, width, height)
    if new_h > final_h:
        transform = replace(transform, offset_y=-float((new_h - final_h) // 2), height=final_h)
    return final_w, final_h, _padded(transform, final_w, final_h)


def resized_size(width: int, height: int, mode: str, size: int, patch: int) -> tuple[int, int]:
    """Width and height before cropping or padding. Rounds half to even, as the published preprocessing does."""
    if mode == "pad" and width < height:
        return round(width * (size / height) / patch) * patch, size
    return size, round(height * (size / width) / patch) * patch


def _prepare(path: Path, mode: str, size: int, patch: int) -> tuple[Tensor, FrameTransform]:
    """The resized, cropped but not yet padded frame (3, h, w) in [0, 1]."""
    image = load_image(path)
    try:
        _, _, transform = frame_transform(image.width, image.height, mode, size, patch)
    except ImageInputError as error:
        raise ImageInputError(f"{path}: {error}") from error
    new_size = resized_size(image.width, image.height, mode, size, patch)
    resized = np.array(image.resize(new_size, Image.Resampling.BICUBIC))
    top = max(0, -int(transform.offset_y))
    return torch.from_numpy(resized[top : top + transform.height]).permute(2, 0, 1).float() / 255, transform


def _padded(transform: FrameTransform, width: int, height: int) -> FrameTransform:
    """The transform after centring the frame on a larger canvas; the odd pixel goes right and below."""
    return replace(
        transform,
        offset_x=transform.offset_x + (width - transform.width) // 2,
        offset_y=transform.offset_y + (height - transform.height) // 2,
        width=width,
        height=height,
    )


def _place(frame: Tensor, transform: FrameTransform) -> Tensor:
    height, width = frame.shape[-2:]
    if (width, height) == (transform.width, transform.height):
        return frame
    canvas = frame.new_ones(3, transform.height, transform.width)
    left, top = max(0, int(transform.offset_x)), max(0, int(transform.offset_y))
    canvas[:, top : top + height, left : left + width] = frame
    return canvas


def _within(indices: np.ndarray, size: int) -> np.ndarray:
    return (indices >= 0) & (indices < size)


def _describe(path: Path, transform: FrameTransform) -> ImageFile:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return ImageFile(path.name, sha256, transform.source_width, transform.source_height)


def _unidentified(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"{path}: the file is empty; copy or download it again"
    if path.suffix.lower() in HEIC_SUFFIXES:
        return f"{path}: HEIC images cannot be read; convert them to JPEG or PNG"
    return f"{path}: not an image that Pillow can read; use JPEG or PNG"
