"""Image files to 8-bit RGB, what is lost on the way, and why a file cannot be read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vggtq.errors import DataError

FORMATS = ("JPEG", "PNG")  # JPEG stands for MPO too, which phones write as .jpg
HEIC_SUFFIXES = (".heic", ".heif")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoded:
    """An image as the network sees it, and what was lost on the way."""

    pixels: Image.Image  # 8-bit RGB
    clipped: bool  # 16-bit grey with values above 255
    turned: bool  # an EXIF orientation other than upright


def decode(path: Path, over_white: bool = True) -> Decoded:
    """JPEG or PNG to 8-bit RGB, with RGBA over white if asked for; every other mode loses its alpha. Raises DataError."""
    try:
        with _no_warnings(), Image.open(path, formats=FORMATS) as image:
            return Decoded(_rgb(image, over_white), _is_clipped(image), _is_turned(image))
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


def _rgb(image: Image.Image, over_white: bool) -> Image.Image:
    if image.mode != "RGBA" or not over_white:
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
