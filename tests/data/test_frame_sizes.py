"""Sizes, pixels and depth of preprocessed frames: against sizes worked out by hand and a plain computation with Pillow."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.frames import RNG, save, transform_of
from vggtq.data.preprocess import check_options, preprocess
from vggtq.errors import ConfigError, DataError


def plain(path: Path, resized: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 of an RGB file after one bicubic resize."""
    return np.asarray(Image.open(path).convert("RGB").resize(resized, Image.BICUBIC))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("size", "mode", "resized", "frame"),
    [
        ((640, 480), "crop", (518, 392), (518, 392)),  # 388.5 / 14 = 27.75
        ((480, 640), "crop", (518, 686), (518, 518)),  # 690.67 / 14 = 49.33
        ((640, 480), "pad", (518, 392), (518, 518)),
        ((480, 640), "pad", (392, 518), (518, 518)),
        ((518, 518), "crop", (518, 518), (518, 518)),
        ((100, 100), "pad", (518, 518), (518, 518)),
        ((518, 21), "crop", (518, 28), (518, 28)),  # 1.5 rounds to 2
        ((518, 35), "crop", (518, 28), (518, 28)),  # 2.5 rounds to 2 as well
        ((21, 518), "pad", (28, 518), (518, 518)),
        ((30, 100), "crop", (518, 1722), (518, 518)),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pixels(tmp_path: Path, size: tuple, mode: str, resized: tuple, frame: tuple, suffix: str) -> None:
    path = save(tmp_path / f"image.{suffix}", *size)
    pixels = plain(path, resized)
    expected = torch.ones(3, frame[1], frame[0])
    if mode == "crop":
        top = (resized[1] - frame[1]) // 2
        expected = as_tensor(pixels[top : top + frame[1]])
    else:
        left, top = (518 - resized[0]) // 2, (518 - resized[1]) // 2
        expected[:, top : top + resized[1], left : left + resized[0]] = as_tensor(pixels)
    out = preprocess([path], mode)[0]
    assert out.dtype == torch.float32
    assert torch.equal(out[0], expected)
    t = transform_of(*size, mode)
    assert (t.width, t.height) == frame


def test_images_of_different_size_are_padded_to_the_largest(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a.png", 518, 42),
        save(tmp_path / "b.png", 518, 70),
        save(tmp_path / "c.png", 518, 56),
    ]
    images, transforms, files, notes = preprocess(paths)
    assert images.shape == (3, 3, 70, 518)
    expected = torch.ones(3, 70, 518)
    expected[:, 14:56] = as_tensor(plain(paths[0], (518, 42)))
    assert torch.equal(images[0], expected)
    assert torch.equal(images[2][:, 7:63], as_tensor(plain(paths[2], (518, 56))))
    assert [t.offset_y for t in transforms] == [14, 0, 7]
    assert notes == ["images differ in size (518x42, 518x56, 518x70); padded with white to 518x70"]
    assert [(f.path, f.width, f.height) for f in files][1] == ("b.png", 518, 70)
    assert files[0].sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert torch.equal(images, preprocess(paths)[0])


def test_equal_sizes_need_no_note(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", 64, 48) for i in range(2)]
    assert preprocess(paths, size=56)[3] == []


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (777, 333)], ids=str)
def test_transform_finds_pixels_where_resampling_put_them(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    """A ramp of coordinates goes through the real resampling; the transform must predict its values."""
    width, height = size
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([u * 255 / width, v * 255 / height, np.zeros_like(u)], axis=-1)
    Image.fromarray(ramp.round().astype(np.uint8)).save(tmp_path / "ramp.png")
    images, transforms, _, _ = preprocess([tmp_path / "ramp.png"], mode, size=140)
    t = transforms[0]
    out = images[0].numpy().astype(np.float64) * 255
    rows, cols = np.nonzero(out[2] < 1)  # padding is white
    source_u = out[0][rows, cols] * width / 255
    source_v = out[1][rows, cols] * height / 255
    predicted_u = (source_u + 0.5) * t.scale_x - 0.5 + t.offset_x
    predicted_v = (source_v + 0.5) * t.scale_y - 0.5 + t.offset_y
    inner = (
        (cols > cols.min() + 3) & (cols < cols.max() - 3) & (rows > rows.min() + 3) & (rows < rows.max() - 3)
    )
    # Half a grey level, in pixels of the frame, and no systematic shift.
    for error, scale, extent in (
        ((predicted_u - cols)[inner], t.scale_x, width),
        ((predicted_v - rows)[inner], t.scale_y, height),
    ):
        assert np.abs(error).max() < 1.5 * scale * extent / 255
        assert abs(error.mean()) < 0.05
    K = np.array([[100.0, 0, 33.3], [0, 110.0, 44.4], [0, 0, 1]])
    point = np.array([0.3, -0.2, 2.0])
    x, y, _ = K @ point / 2
    projected = t.intrinsics(K) @ point / 2
    assert projected[0] == pytest.approx((x + 0.5) * t.scale_x - 0.5 + t.offset_x, abs=1e-12)
    assert projected[1] == pytest.approx((y + 0.5) * t.scale_y - 0.5 + t.offset_y, abs=1e-12)


def test_depth_is_the_nearest_sample_and_nan_in_padding() -> None:
    depth = RNG.uniform(1, 9, (30, 60)).astype(np.float32)
    depth[3, 4] = np.nan
    t = transform_of(60, 30, "pad", 56, 14)
    width, height = t.width, t.height
    out = t.depth(depth)
    assert out.shape == (height, width) == (56, 56) and out.dtype == np.float32
    assert np.isnan(out[:14]).all() and np.isnan(out[42:]).all()
    for row in range(14, 42):
        for col in range(56):
            x = min(range(60), key=lambda u: abs((u + 0.5) * 56 / 60 - 0.5 - col))
            y = min(range(30), key=lambda v: abs((v + 0.5) * 28 / 30 - 0.5 + 14 - row))
            assert np.array_equal(out[row, col], depth[y, x], equal_nan=True)


def test_depth_follows_the_crop() -> None:
    t = transform_of(56, 84, "crop", 56, 14)
    depth = np.arange(84, dtype=np.float32)[:, None].repeat(56, axis=1)
    assert t.depth(depth)[:, 0].tolist() == list(range(14, 70))
    with pytest.raises(DataError, match="depth map of 84x56 for an image of 56x84"):
        t.depth(depth.T)


def test_contract_messages(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as empty:
        preprocess([])
    assert str(empty.value) == "At least 1 image is required"
    with pytest.raises(ValueError) as mode:
        preprocess([save(tmp_path / "a.png", 20, 20)], "fit")
    assert str(mode.value).startswith("dataset.mode=fit: Mode must be either 'crop' or 'pad', or another")


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        (500, 14, "dataset.image_size=500 is not a positive multiple of the patch size 14; try 490 or 504"),
        (13, 14, "dataset.image_size=13 is not a positive multiple of the patch size 14; try 14"),
        (0, 14, "dataset.image_size=0 is not a positive multiple of the patch size 14; try 14"),
        (-20, 14, "dataset.image_size=-20 is not a positive multiple of the patch size 14; try 14"),
        (518, 0, "dataset.patch_size=0: must be 1 or more; VGGT's is 14"),
        (518, -14, "dataset.patch_size=-14: must be 1 or more; VGGT's is 14"),
    ],
)
def test_impossible_sizes(size: int, patch: int, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_options("crop", size, patch)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("size", "mode"), [((518, 7), "crop"), ((518, 7), "pad"), ((7, 518), "pad")], ids=str
)
def test_extreme_aspect_ratios_are_refused_by_name(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    path = save(tmp_path / "thin.png", *size)
    with pytest.raises(ValueError, match=r"thin\.png.*height and width must be > 0") as error:
        preprocess([path], mode)
    assert isinstance(error.value, DataError)


def test_tall_images_are_fine_when_cropping(tmp_path: Path) -> None:
    assert preprocess([save(tmp_path / "tall.png", 7, 100)], "crop", 14)[0].shape == (1, 3, 14, 14)


# Pi3 prints 574 × 434 for 4:3, 672 × 378 for 16:9 and 504 × 504; VGGT-Ω 624 × 416 for 3:2, 512 × 512 and 720 × 368 for 2:1.
FITTED = [
    ((640, 480), "area", 504, 14, (574, 434)),
    ((1920, 1080), "area", 504, 14, (672, 378)),
    ((300, 300), "area", 504, 14, (504, 504)),
    ((480, 640), "area", 504, 14, (434, 574)),
    ((1500, 1000), "balanced", 512, 16, (624, 416)),
    ((70, 70), "balanced", 512, 16, (512, 512)),
    ((2000, 1000), "balanced", 512, 16, (720, 368)),
    ((3000, 1000), "balanced", 512, 16, (720, 368)),
    ((1000, 3000), "balanced", 512, 16, (368, 720)),
    ((640, 480), "max_size", 512, 16, (512, 384)),
    ((480, 640), "max_size", 512, 16, (384, 512)),
    ((900, 300), "max_size", 512, 16, (512, 256)),
]


@pytest.mark.parametrize(("size", "mode", "side", "patch", "frame"), FITTED)
def test_frames_of_other_networks(size: tuple, mode: str, side: int, patch: int, frame: tuple) -> None:
    t = transform_of(*size, mode, side, patch)
    assert (t.width, t.height) == frame


def test_area_stretches_all_images_to_the_size_of_the_first_by_lanczos(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png", 80, 60), save(tmp_path / "b.png", 50, 70)]
    images, transforms, *_ = preprocess(paths, "area", 56, 14)
    width, height = images.shape[-1], images.shape[-2]
    assert (width, height) == (70, 42)
    for path, image, transform in zip(paths, images, transforms, strict=True):
        with Image.open(path) as source:
            resized = source.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            assert torch.equal(image, as_tensor(np.array(resized)))
            assert transform.scale_x == width / source.width and transform.offset_x == 0


def test_area_drops_alpha_as_it_is(tmp_path: Path) -> None:
    pixels = np.full((56, 56, 4), (200, 100, 50, 0), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    (shown,), *_ = preprocess([tmp_path / "rgba.png"], "area", 56, 14)
    torch.testing.assert_close(shown[:, 0, 0] * 255, torch.tensor([200.0, 100.0, 50.0]))
    (white,), *_ = preprocess([tmp_path / "rgba.png"], "balanced", 64, 16)
    assert (white == 1).all()


def test_long_images_lose_their_ends_and_padding_shows_nothing(tmp_path: Path) -> None:
    paths = [save(tmp_path / "long.png", 100, 30), save(tmp_path / "square.png", 60, 60)]
    images, transforms, _, notes = preprocess(paths, "balanced", 64, 16)
    with Image.open(paths[0]) as source:
        part = source.convert("RGB").crop((20, 0, 80, 30)).resize((96, 48), Image.Resampling.BICUBIC)
    assert images.shape[-2:] == (64, 96) and any("padded with white" in note for note in notes)
    assert torch.equal(images[0, :, 8:56], as_tensor(np.array(part)))
    assert (images[0, :, :8] == 1).all() and (images[0, :, 56:] == 1).all()
    # Column 20 of the source is the first that is seen: its left edge lies at that of the frame.
    assert (20 + 0.5) * transforms[0].scale_x - 0.5 + transforms[0].offset_x == pytest.approx(
        0.5 * transforms[0].scale_x - 0.5
    )
    depth = np.arange(3000, dtype=np.float32).reshape(30, 100)
    seen = transforms[0].depth(depth)
    assert np.isnan(seen[:8]).all() and np.isnan(seen[56:]).all() and np.isfinite(seen[8:56]).all()
    assert seen[8, 0] == 20 and seen[8, -1] == 79
    square = transforms[1].depth(np.ones((60, 60), np.float32))
    assert np.isfinite(square).sum() == 64 * 64 and np.isnan(square[:, :16]).all()
