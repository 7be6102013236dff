"""Image files to network input, bit for bit as each network's own preprocessing makes it, and the map from
source pixels to frames.

A mode determines the part of an image that is resized, and its new size, multiples of the patch (`fit`); frames
of different sizes are padded with white. EXIF orientation is ignored and 16-bit grey is clipped at 255, with a
note. Left out: square centring on black.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vggtq.data.decode import decode
from vggtq.data.fit import MODES, Fit, ImageInputError, fit
from vggtq.data.frames import ALL_IN_MEMORY, Frames
from vggtq.data.scene import ImageFile
from vggtq.errors import ConfigError, DataError

ENLARGED = 16  # times as many pixels, beyond which people should know


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
    shown_width: int | None = (
        None  # of the part that shows the image, in the middle; None: as far as that reaches
    )
    shown_height: int | None = None

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
        inside &= _middle(self.height, self.shown_height)[:, None] & _middle(self.width, self.shown_width)
        rows, cols = rows.clip(0, self.source_height - 1), cols.clip(0, self.source_width - 1)
        return np.where(inside, depth[np.ix_(rows, cols)], np.nan).astype(np.float32)


Change = Callable[[Image.Image], Image.Image]
Preprocessed = tuple[Tensor, list[FrameTransform], list[ImageFile], list[str]]
Prepared = tuple[Frames, list[FrameTransform], list[ImageFile], list[str]]


@dataclass(kw_only=True)
class ImageOptions:
    """Options that data sets of image files share: the way an image becomes network input."""

    image_size: int = 518
    mode: str = "crop"
    patch_size: int = 14

    def __post_init__(self) -> None:
        check_options(self.mode, self.image_size, self.patch_size)

    def preprocessed(self, paths: Sequence[Path], changes: Sequence[Change | None] = ()) -> Preprocessed:
        """`preprocess` with these options."""
        return preprocess(paths, self.mode, self.image_size, self.patch_size, changes)

    @property
    def of_images(self) -> dict[str, Any]:
        """These options, for another data set of the same images."""
        return {f.name: getattr(self, f.name) for f in fields(ImageOptions)}


def check_options(mode: str, size: int, patch: int) -> None:
    """Raises ConfigError for options that cannot work, before an image is read."""
    if mode not in MODES:
        raise ConfigError(
            f"dataset.mode={mode}: Mode must be either 'crop' or 'pad', or another network's: {', '.join(MODES[2:])}"
        )
    if patch < 1:
        raise ConfigError(f"dataset.patch_size={patch}: must be 1 or more; VGGT's is 14")
    if size < patch or size % patch:
        lower = max(size // patch, 0) * patch
        near = " or ".join(str(n) for n in (lower, lower + patch) if n)
        raise ConfigError(
            f"dataset.image_size={size} is not a positive multiple of the patch size {patch}; try {near}"
        )


def preprocess(
    paths: Sequence[str | Path],
    mode: str = "crop",
    size: int = 518,
    patch: int = 14,
    changes: Sequence[Change | None] = (),
) -> Preprocessed:
    """Images (S, 3, H, W) float32 RGB in [0, 1], one transform and one file entry per image, and notes.

    crop keeps the width, pad makes every frame size × size. area takes the size from the first image, as many
    pixels as a square of `size` has; balanced does so for each image by itself and max_size makes the longer
    side `size`, both after cutting an image that is more than twice as long as wide. Images of different sizes
    are padded with white to the largest. changes: made to each image first, e.g. undistortion. Notes report
    images that are padded, cut off or enlarged, clipped 16-bit grey and ignored EXIF orientations.
    """
    frames, transforms, files, notes = prepare(paths, mode, size, patch, changes)
    return frames[:], transforms, files, notes


def prepare(
    paths: Sequence[str | Path],
    mode: str = "crop",
    size: int = 518,
    patch: int = 14,
    changes: Sequence[Change | None] = (),
    memory_bytes: int = ALL_IN_MEMORY,
) -> Prepared:
    """`preprocess`, with images that are made when they are asked for. memory_bytes: of frames that wait in memory; others wait
    in a temporary file.

    Every image is decoded once, so that a damaged one is found here.
    """
    if not paths:
        raise ImageInputError("At least 1 image is required")
    check_options(mode, size, patch)
    frames, transforms, files = Frames(memory_bytes), list[FrameTransform](), list[ImageFile]()
    clipped, turned = list[str](), list[str]()
    first: tuple[int, int] | None = None
    for path, change in zip_longest(map(Path, paths), changes):
        decoded = decode(path, over_white=mode != "area")
        clipped += [path.name] * decoded.clipped
        turned += [path.name] * decoded.turned
        pixels = change(decoded.pixels) if change else decoded.pixels
        first = first or pixels.size
        frame, transform = _prepare(pixels, path, mode, size, patch, first)
        frames.append(frame, transform.height, transform.width)
        transforms.append(transform)
        files.append(_describe(path, transform))
    sizes = sorted({(t.width, t.height) for t in transforms})
    height, width = frames.size_hw
    notes = [*_losses(clipped, turned), *_reshaped([Path(path).name for path in paths], transforms, mode)]
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sizes)
        notes.append(f"images differ in size ({listed}); padded with white to {width}x{height}")
    return frames, [_padded(t, width, height) for t in transforms], files, notes


def _losses(clipped: Sequence[str], turned: Sequence[str]) -> list[str]:
    """Notes on properties that the networks' own preprocessings ignore, which users may not expect."""
    notes = []
    if clipped:
        notes.append(
            f"{_who(clipped, 'has', 'have')} 16-bit grey values, which are clipped at 255 as in the network's own "
            f"preprocessing; convert {'it' if len(clipped) == 1 else 'them'} to 8 bits"
        )
    if turned:
        notes.append(
            f"{_who(turned, 'has', 'have')} an EXIF orientation, which is ignored as in the network's own preprocessing; "
            f"rotate {'it' if len(turned) == 1 else 'them'} first (exiftran -ai, or ImageMagick's -auto-orient)"
        )
    return notes


def _reshaped(names: Sequence[str], transforms: Sequence[FrameTransform], mode: str) -> list[str]:
    """Notes on images of which much is cut away, and on those that are much enlarged."""
    both = list(zip(names, transforms, strict=True))
    cut = {n: 1 - _shown(t) for n, t in both if min(t.offset_x, t.offset_y) < 0}
    tiny = [n for n, t in both if t.scale_x * t.scale_y > ENLARGED]
    notes = []
    if cut:
        share = f"{'' if len(cut) == 1 else 'up to '}{100 * max(cut.values()):.0f} %"
        notes.append(
            f"{_who(list(cut), 'is', 'are')} taller than wide: top and bottom are cut off, {share} of it; mode=pad keeps them"
            if mode == "crop"
            else f"{_who(list(cut), 'is', 'are')} more than twice as long as wide: both ends are cut off, {share} of it"
        )
    if tiny:
        notes.append(f"{_who(tiny, 'is', 'are')} enlarged to more than {ENLARGED} times as many pixels")
    return notes


def _shown(t: FrameTransform) -> float:
    """The part of the image that its frame shows, 0 to 1."""
    return min(1, t.width / (t.source_width * t.scale_x)) * min(1, t.height / (t.source_height * t.scale_y))


def _who(names: Sequence[str], one: str, many: str) -> str:
    return f"{names[0]} {one}" if len(names) == 1 else f"{len(names)} images {many}"


def frame_transform(fitted: Fit, width: int, height: int) -> FrameTransform:
    """The transform from pixels of an image of width × height to pixels of its frame."""
    scale = [new / old for new, old in zip(fitted.resized, fitted.part, strict=True)]
    offsets = [
        -((whole - part) // 2) * s + float(_half(kept - new))
        for whole, part, s, new, kept in zip(
            (width, height), fitted.part, scale, fitted.resized, fitted.kept, strict=True
        )
    ]
    shown = (min(new, kept) for new, kept in zip(fitted.resized, fitted.kept, strict=True))
    return FrameTransform(scale[0], scale[1], offsets[0], offsets[1], *fitted.kept, width, height, *shown)


def _half(pixels: int) -> int:
    """Rounded to zero: the odd pixel of a margin or of a cut goes right and below."""
    return pixels // 2 if pixels >= 0 else -(-pixels // 2)


def _prepare(
    image: Image.Image, path: Path, mode: str, size: int, patch: int, first: tuple[int, int]
) -> tuple[NDArray[np.uint8], FrameTransform]:
    """The resized, cropped but not yet padded frame (h, w, 3), and where it will lie."""
    try:
        fitted = fit(image.width, image.height, mode, size, patch, first)
    except ImageInputError as error:
        raise ImageInputError(f"{path}: {error}") from error
    transform = frame_transform(fitted, image.width, image.height)
    if fitted.part != image.size:
        left, top = ((whole - part) // 2 for whole, part in zip(image.size, fitted.part, strict=True))
        image = image.crop((left, top, left + fitted.part[0], top + fitted.part[1]))
    resized = np.array(image.resize(fitted.resized, fitted.resampling))
    top = max(0, (fitted.resized[1] - fitted.kept[1]) // 2)
    return resized[top : top + fitted.kept[1]], transform


def _padded(transform: FrameTransform, width: int, height: int) -> FrameTransform:
    """The transform after centring the frame on a larger canvas; the odd pixel goes right and below."""
    return replace(
        transform,
        offset_x=transform.offset_x + (width - transform.width) // 2,
        offset_y=transform.offset_y + (height - transform.height) // 2,
        width=width,
        height=height,
    )


def _middle(size: int, shown: int | None) -> np.ndarray:
    """A mask of the `shown` pixels in the middle of a row of `size`; an odd one of the others lies behind."""
    start = 0 if shown is None else (size - shown) // 2
    return _within(np.arange(size) - start, size if shown is None else shown)


def _within(indices: np.ndarray, size: int) -> np.ndarray:
    return (indices >= 0) & (indices < size)


def _describe(path: Path, transform: FrameTransform) -> ImageFile:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return ImageFile(path.name, sha256, transform.source_width, transform.source_height)
