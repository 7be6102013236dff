"""The part of an image that is resized for a network, its new size and the kept size: sizes alone, no pixels.

crop and pad are VGGT's rules, area is Pi3's, balanced and max_size are VGGT-Ω's (docs/models.md).
"""

from dataclasses import dataclass

from PIL import Image

from vggtq.errors import DataError

MODES = ("crop", "pad", "area", "balanced", "max_size")
PIXELS_AT_504 = 255_000  # of a frame in mode area, at most, where `size` is 504


class ImageInputError(DataError, ValueError):
    """Images that can be read but not be given to the network."""


@dataclass(frozen=True)
class Fit:
    """The part of an image that is resized, its size after that, and the size that is kept: all (width,
    height), pixels.

    The kept size may be the larger one; the image is then padded. Parts lie in the middle; the odd pixel goes
    right and below.
    """

    part: tuple[int, int]
    resized: tuple[int, int]
    kept: tuple[int, int]
    resampling: Image.Resampling = Image.Resampling.BICUBIC


def fit(width: int, height: int, mode: str, size: int, patch: int, first: tuple[int, int]) -> Fit:
    """The `Fit` of a width × height image to a frame. first: width and height of the first of the images.
    Rounds half to even, as the published preprocessings do. Raises ImageInputError for an aspect ratio that
    leaves nothing.
    """
    whole = (width, height)
    if mode == "area":
        resized = _of_area(*first, PIXELS_AT_504 * (size / 504) ** 2, patch)
        return Fit(whole, resized, resized, Image.Resampling.LANCZOS)
    if mode in ("balanced", "max_size"):
        part = (min(width, 2 * height), min(height, 2 * width))
        resized = _balanced(*part, size, patch) if mode == "balanced" else _longest(*part, size, patch)
        return Fit(part, resized, resized)
    resized = resized_size(width, height, mode, size, patch)
    if 0 in resized:
        raise ImageInputError(
            f"height and width must be > 0: an image of {width}x{height} becomes {resized[0]}x{resized[1]}; "
            "its aspect ratio is too extreme, crop it first"
        )
    return Fit(whole, resized, (size, size) if mode == "pad" else (resized[0], min(resized[1], size)))


def resized_size(width: int, height: int, mode: str, size: int, patch: int) -> tuple[int, int]:
    """Width and height before cropping or padding, in the modes crop and pad."""
    if mode == "pad" and width < height:
        return round(width * (size / height) / patch) * patch, size
    return size, round(height * (size / width) / patch) * patch


def _of_area(width: int, height: int, pixels: float, patch: int) -> tuple[int, int]:
    """At most so many pixels; sides are shortened by patches until that holds, the one first that is too long."""
    scale = (pixels / (width * height)) ** 0.5
    wide, high = width * scale, height * scale
    columns, rows = round(wide / patch), round(high / patch)
    while (columns * patch) * (rows * patch) > pixels:
        if columns / rows > wide / high:
            columns -= 1
        else:
            rows -= 1
    return max(1, columns) * patch, max(1, rows) * patch


def _balanced(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """About size² pixels."""
    patches, aspect = (size / patch) ** 2, height / width
    columns = (patches / aspect) ** 0.5
    return max(1, round(columns)) * patch, max(1, round(patches / columns)) * patch


def _longest(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """The longer side is `size`."""
    aspect = height / width
    if aspect >= 1:
        return max(patch, patch * round(size / aspect / patch)), size
    return size, max(patch, patch * round(size * aspect / patch))
