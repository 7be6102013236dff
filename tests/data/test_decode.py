"""Which image files are read, with which pixels, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.frames import save
from vggtq.data.decode import decode
from vggtq.data.preprocess import preprocess
from vggtq.errors import DataError


def test_only_rgba_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((518, 518, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[:259, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    out = np.asarray(decode(tmp_path / "rgba.png").pixels)
    assert out[0, 0].tolist() == [200, 0, 0] and out[-1, 0].tolist() == [255, 255, 255]
    Image.fromarray(np.full((20, 20, 2), (70, 0), dtype=np.uint8), "LA").save(tmp_path / "la.png")
    assert np.asarray(decode(tmp_path / "la.png").pixels)[0, 0].tolist() == [70, 70, 70]
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=1)
    assert np.asarray(decode(tmp_path / "p.png").pixels)[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_grey_clips_and_orientation_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 300, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(decode(tmp_path / "grey.png").pixels).max() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg").pixels.size == (40, 20)


def grey16(path: Path, value: int) -> Path:
    Image.fromarray(np.full((28, 28), value, dtype=np.uint16)).save(path)
    return path


def turned(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (28, 28)).save(path, exif=exif)
    return path


def notes_of(*paths: Path) -> list[str]:
    return preprocess(paths, size=28)[3]


def test_clipped_sixteen_bit_grey_is_noted(tmp_path: Path) -> None:
    dark, scan, other = (
        grey16(tmp_path / name, v) for name, v in (("dark.png", 255), ("scan.png", 256), ("b.png", 9999))
    )
    assert notes_of(dark) == []
    assert notes_of(dark, scan) == [
        "scan.png has 16-bit grey values, which are clipped at 255 as in the network's own preprocessing; "
        "convert it to 8 bits"
    ]
    (note,) = notes_of(scan, other)
    assert note.startswith("2 images have 16-bit grey values") and note.endswith("convert them to 8 bits")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_ignored_orientation_is_noted(tmp_path: Path, suffix: str) -> None:
    paths = [turned(tmp_path / f"{i}.{suffix}", i) for i in (1, 3, 6, 8)]
    assert notes_of(paths[0]) == []
    assert notes_of(*paths) == [
        "3 images have an EXIF orientation, which is ignored as in the network's own preprocessing; "
        "rotate them first (exiftran -ai, or ImageMagick's -auto-orient)"
    ]
    assert notes_of(paths[1])[0].startswith(f"3.{suffix} has an EXIF orientation")


@pytest.mark.filterwarnings("error")
def test_damaged_exif_is_no_obstacle(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff\xff"
    Image.new("RGB", (28, 28)).save(tmp_path / "a.jpg", exif=exif)
    assert notes_of(tmp_path / "a.jpg") == []


@pytest.mark.parametrize("real", ["GIF", "TIFF", "WEBP", "BMP"])
def test_other_formats_are_refused_by_their_real_name(tmp_path: Path, real: str) -> None:
    for name in ("a.jpg", "a.tif"):
        Image.new("RGB", (28, 28)).save(tmp_path / name, real)
        with pytest.raises(DataError, match=rf"{name}: a {real} image.*convert it to JPEG or PNG"):
            decode(tmp_path / name)


def test_multi_picture_jpeg_of_phones_is_read(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (28, 28), (90, 90, 90)), Image.new("RGB", (28, 28))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert np.asarray(decode(tmp_path / "a.jpg").pixels).max() == 90


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "empty"),
        ("photo.heic", b"\0\0\0\x18ftypheic" + bytes(50), "HEIC.*convert"),
        ("photo.jpg", b"\0\0\0\x18ftypheic" + bytes(50), "HEIC.*convert"),
        ("text.png", b"hello", "not an image"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        decode(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"cut.{suffix}", 200, 200)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"cut.*cannot be decoded.*again"):
        decode(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such image"):
        decode(tmp_path / "nothing.png")
