"""Image files to network input, bit for bit as VGGT (Wang et al. 2025) prepares them, and what that does to pixels.

Each image is resized so that one side is `size` and both are multiples of the patch, then cropped or padded with
white. EXIF orientation is ignored and 16-bit grey is clipped at 255, with a note. Left out: square centring on black.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vggtq.data.scene import ImageFile
from vggtq.errors import ConfigError, DataError

FORMATS = ("JPEG", "PNG")  # JPEG stands for MPO too, which phones write as .jpg
HEIC_SUFFIXES = (".heic", ".heif")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
EXIF_ORIENTATION = 0x0112


class ImageInputError(DataError, ValueError):
    """Images that can be read but not be given to the network."""


@dataclass(frozen=True)
class Decoded:
    """An image as the network sees it, and what was lost on the way."""

    pixels: Image.Image  # 8-bit RGB
    clipped: bool  # 16-bit grey with values above 255
    turned: bool  # an EXIF orientation other than upright


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
        raise ConfigError(f"dataset.mode={mode}: Mode must be either 'crop' or 'pad'")
    if patch < 1:
        raise ConfigError(f"dataset.patch_size={patch}: must be 1 or more; VGGT's is 14")
    if size < patch or size % patch:
        lower = max(size // patch, 0) * patch
        near = " or ".join(str(n) for n in (lower, lower + patch) if n)
        raise ConfigError(
            f"dataset.image_size={size} is not a positive multiple of the patch size {patch}; try {near}"
        )


def preprocess_images(
    paths: Sequence[str | Path], mode: str = "crop", size: int = 518, patch: int = 14
) -> Tensor:
    """(S, 3, H, W) float32 RGB in [0, 1]. crop keeps the width, pad makes every frame size × size."""
    return preprocess(paths, mode, size, patch)[0]


def preprocess(
    paths: Sequence[str | Path], mode: str = "crop", size: int = 518, patch: int = 14
) -> tuple[Tensor, list[FrameTransform], list[ImageFile], list[str]]:
    """Images (S, 3, H, W) float32 RGB in [0, 1], one transform and one file entry per image, and notes.

    Images of different sizes, which only crop can produce, are padded with white to the largest. Notes tell of
    that, of clipped 16-bit grey and of ignored EXIF orientations.
    """
    if not paths:
        raise ImageInputError("At least 1 image is required")
    check_options(mode, size, patch)
    frames, transforms, files = [], [], []
    clipped, turned = [], []
    for path in map(Path, paths):
        decoded = decode(path)
        clipped += [path.name] * decoded.clipped
        turned += [path.name] * decoded.turned
        frame, transform = _prepare(decoded.pixels, path, mode, size, patch)
        frames.append(frame)
        transforms.append(transform)
        files.append(_describe(path, transform))
    sizes = sorted({(t.width, t.height) for t in transforms})
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    notes = _losses(clipped, turned)
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sizes)
        notes.append(f"images differ in size ({listed}); padded with white to {width}x{height}")
    transforms = [_padded(t, width, height) for t in transforms]
    images = torch.stack([_place(f, t) for f, t in zip(frames, transforms, strict=True)])
    return images, transforms, files, notes


def decode(path: Path) -> Decoded:
    """JPEG or PNG to 8-bit RGB, with RGBA over white; every other mode loses its alpha. Raises DataError."""
    try:
        with _no_warnings(), Image.open(path, formats=FORMATS) as image:
            return Decoded(_rgb(image), _is_clipped(image), _is_turned(image))
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


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Pillow warns of damaged metadata and of many pixels, neither of which changes anything here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _is_clipped(image: Image.Image) -> bool:
    return image.mode.startswith("I") and image.getextrema()[1] > 255  # type: ignore[operator]


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(EXIF_ORIENTATION) in range(2, 9)
    except Exception:  # damaged metadata, for which Pillow has no common error, does not harm the pixels
        return False


def _losses(clipped: Sequence[str], turned: Sequence[str]) -> list[str]:
    """Notes on what VGGT's own preprocessing ignores and people do not expect."""
    notes = []
    if clipped:
        notes.append(
            f"{_who(clipped, 'has', 'have')} 16-bit grey values, which are clipped at 255 as in VGGT's own "
            f"preprocessing; convert {'it' if len(clipped) == 1 else 'them'} to 8 bits"
        )
    if turned:
        notes.append(
            f"{_who(turned, 'has', 'have')} an EXIF orientation, which is ignored as in VGGT's own preprocessing; "
            f"rotate {'it' if len(turned) == 1 else 'them'} first (exiftran -ai, or ImageMagick's -auto-orient)"
        )
    return notes


def _who(names: Sequence[str], one: str, many: str) -> str:
    return f"{names[0]} {one}" if len(names) == 1 else f"{len(names)} images {many}"


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


def _prepare(
    image: Image.Image, path: Path, mode: str, size: int, patch: int
) -> tuple[Tensor, FrameTransform]:
    """The resized, cropped but not yet padded frame (3, h, w) in [0, 1]."""
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
    if real := _real_format(path):
        return f"{path}: a {real} image, which is not read whatever its name; convert it to JPEG or PNG"
    return f"{path}: not an image, or a damaged one; copy or export it again as JPEG or PNG"


def _real_format(path: Path) -> str | None:
    with path.open("rb") as stream:
        head = stream.read(12)
    if path.suffix.lower() in HEIC_SUFFIXES or (head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS):
        return "HEIC"
    try:
        with _no_warnings(), Image.open(path) as image:
            return image.format
    except Exception:  # only a name for the message is wanted, and a damaged file may fail anywhere
        return None
