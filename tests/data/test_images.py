"""A folder of one's own images: what is taken, what is refused, and ground truth from cameras.json."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, ValidationError
from PIL import Image

from vggtq.data.images import ImageFolder
from vggtq.data.scene import Scene
from vggtq.data.select import natural_key
from vggtq.errors import ConfigError, DataError


def save(path: Path, size: tuple[int, int] = (28, 28), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def load(path: Path, **options: object) -> Scene:
    scenes = list(ImageFolder(path=str(path), image_size=28, **options).scenes())  # type: ignore[arg-type]
    assert len(scenes) == 1
    return scenes[0]


def names(scene: Scene) -> list[str]:
    return [file.path for file in scene.files]


def test_every_letter_case_in_natural_order(tmp_path: Path) -> None:
    for name in ("frame10.PNG", "frame2.jpg", "Frame1.JPEG", "frame3.Jpg"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    scene = load(tmp_path)
    assert names(scene) == ["Frame1.JPEG", "frame2.jpg", "frame3.Jpg", "frame10.PNG"]
    assert scene.images.shape == (4, 3, 28, 28)
    assert scene.name == tmp_path.name
    assert scene.truth.extrinsics is None


def test_natural_order_has_no_ties() -> None:
    # 01 and 1 are the same number but not the same file
    assert sorted(["a1", "a01", "A1"], key=natural_key) == sorted(["A1", "a1", "a01"], key=natural_key)
    assert sorted(["2", "a", "10", "1b"], key=natural_key) == ["1b", "2", "10", "a"]


@pytest.mark.parametrize(
    "place", ["images", "dslr_images_undistorted", "images/dslr_images_undistorted", "deep/er/still"]
)
def test_subfolders_are_searched_and_named(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / place / "a.jpg")
    with caplog.at_level(logging.INFO, logger="vggtq.data.images"):
        scene = load(tmp_path)
    assert names(scene) == [f"{place}/a.jpg"]
    assert scene.notes == (caplog.messages[0],)
    assert ("recursively" if place.startswith("deep") else place) in scene.notes[0]


def test_the_folder_itself_wins(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "images" / "b.jpg")
    assert names(load(tmp_path)) == ["a.jpg"]


def test_hidden_and_macos_files_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "x.jpg")
    (tmp_path / "._x.jpg").write_bytes(b"resource fork")
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".cache" / "y.png")
    assert names(load(tmp_path)) == ["x.jpg"]


def test_heic_beside_others_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "x.jpg")
    for name in ("a.HEIC", "b.heic"):
        (tmp_path / name).write_bytes(b"\0")
    scene = load(tmp_path)
    assert names(scene) == ["x.jpg"]
    assert any("2 HEIC files" in note for note in scene.notes)


def test_only_heic_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"the only image is HEIC.*convert it"):
        load(tmp_path)
    (tmp_path / "b.HEIC").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"all 2 images are HEIC.*convert them"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "dangling link"])
def test_a_damaged_image_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "good.jpg")
    bad = tmp_path / "worse.jpg"
    if damage == "truncated":
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(bad)
        bad.write_bytes(bad.read_bytes()[:1500])
    elif damage == "dangling link":
        bad.symlink_to(tmp_path / "gone.jpg")
    else:
        bad.write_bytes(b"" if damage == "empty" else b"hello")
    with pytest.raises(DataError, match=r"worse\.jpg"):
        load(tmp_path)


def test_what_the_name_promises_is_checked(tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: a TIFF image"):
        load(tmp_path / "x.tif")
    save(tmp_path / "good.jpg")
    Image.new("P", (28, 28)).save(tmp_path / "worse.jpg", "GIF")
    with pytest.raises(DataError, match=r"worse\.jpg: a GIF image"):
        load(tmp_path)


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image found.*\.jpg"):
        load(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"readme\.txt"):
        load(tmp_path / "readme.txt")


def test_a_single_image_is_one_frame(tmp_path: Path) -> None:
    scene = load(save(tmp_path / "only.png"))
    assert scene.images.shape == (1, 3, 28, 28)
    assert names(scene) == ["only.png"] and scene.name == "only"
    assert len(load(tmp_path).files) == 1


def test_mixed_sizes_are_padded_and_noted(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (56, 28))
    save(tmp_path / "b.png", (28, 28))
    scene = load(tmp_path)
    assert scene.images.shape == (2, 3, 28, 28)
    assert [(f.width, f.height) for f in scene.files] == [(56, 28), (28, 28)]
    assert any("pad" in note for note in scene.notes)


def test_selection(tmp_path: Path) -> None:
    for i in range(7):
        save(tmp_path / f"{i}.png")
    assert names(load(tmp_path, start=1, stride=2, max_images=2)) == ["1.png", "3.png"]
    with pytest.raises(DataError, match="start=7 leaves none of 7 images; use a start below 7"):
        load(tmp_path, start=7)
    with pytest.raises(DataError, match="start=1 leaves none of 1 image; use start 0"):
        load(tmp_path / "0.png", start=1)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "a.jpg")
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "deep" / "self").symlink_to(tmp_path / "deep" / "self")
    assert names(load(tmp_path)) == ["deep/a.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "dataset.path=DIR"),
        ({"start": -1}, "start=-1"),
        ({"stride": 0}, "stride=0"),
        ({"max_images": 0}, "max_images=0"),
        ({"mode": "stretch"}, "crop"),
        ({"image_size": 500}, "500"),
    ],
)
def test_wrong_values_are_found_without_files(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageFolder(**{"path": "/nowhere", **options})  # type: ignore[arg-type]


def test_the_dataclass_is_a_typed_schema() -> None:
    schema = OmegaConf.structured(ImageFolder(path="a"))
    assert OmegaConf.to_object(OmegaConf.merge(schema, {"max_images": 3})) == ImageFolder(
        path="a", max_images=3
    )
    with pytest.raises(ValidationError):
        OmegaConf.merge(schema, {"stride": "two"})


# cameras.json


def write_cameras(folder: Path, count: int = 3, **changes: object) -> dict[str, object]:
    """Frames of 56x42 whose depth is 1.5 m on the left half and unknown on the right."""
    depth = np.full((42, 56), 1500, dtype=np.uint16)
    depth[:, 28:] = 0
    images = []
    for i in range(count):
        save(folder / f"rgb/{i}.png", (56, 42), value=10 * i)
        Image.fromarray(depth).save(folder / f"{i}.png")
        pose = np.eye(4)
        pose[0, 3] = i
        K = [[50.0, 0, 27.5], [0, 50.0, 20.5], [0, 0, 1]]
        entry = {
            "image": f"rgb/{i}.png",
            "depth": f"{i}.png",
            "width": 56,
            "height": 42,
            "K": K,
            "w2c": pose.tolist(),
        }
        images.append({**entry, **changes})
    data = {"pose_scale": "metric", "images": images}
    (folder / "cameras.json").write_text(json.dumps(data))
    return data


def test_ground_truth_of_cameras_json(tmp_path: Path) -> None:
    write_cameras(tmp_path)
    truth = load(tmp_path, start=1).truth
    assert truth.metric
    assert truth.extrinsics is not None and truth.intrinsics is not None and truth.depth is not None
    assert truth.extrinsics.dtype == truth.intrinsics.dtype == torch.float64
    assert truth.extrinsics[:, 0, 3].tolist() == [1.0, 2.0]
    assert truth.intrinsics[0, 0, 0] == pytest.approx(25.0)
    # the centre of the image stays the centre: (27.5 + 0.5) / 2 - 0.5
    assert truth.intrinsics[0, 0, 2] == pytest.approx(13.5)
    assert truth.depth.shape == (2, *load(tmp_path).images.shape[-2:])
    # 42 rows become 21, the nearest multiple of 14 is 28
    assert torch.all(truth.depth[:, :, :14] == 1.5)
    assert torch.isnan(truth.depth[:, :, 14:]).all()


def test_only_selected_frames_are_read(tmp_path: Path) -> None:
    write_cameras(tmp_path)
    (tmp_path / "0.png").write_bytes(b"damaged")
    (tmp_path / "rgb/2.png").unlink()
    assert names(load(tmp_path, start=1, max_images=1)) == ["rgb/1.png"]
    with pytest.raises(DataError, match=r"0\.png"):
        load(tmp_path, max_images=1)
    with pytest.raises(DataError, match=r"1 of 2 listed images.*2\.png"):
        load(tmp_path, start=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 57}, "56x42.*57x42"),
        ({"K": [[1, 0], [0, 1]]}, "K must be finite and 3x3"),
        ({"w2c": np.diag([2.0, 1, 1, 1]).tolist()}, "not a rotation"),
        ({"w2c": np.diag([-1.0, 1, 1, 1]).tolist()}, "not a rotation"),
        ({"w2c": "east"}, "w2c is not a matrix"),
        ({"depth": "rgb/0.png"}, "16-bit"),
        ({"depth": "gone.png"}, r"gone\.png"),
        ({"height": "42"}, "positive integers"),
    ],
)
def test_inconsistent_cameras_json(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_cameras(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_depth_of_another_size(tmp_path: Path) -> None:
    write_cameras(tmp_path)
    Image.fromarray(np.ones((42, 55), dtype=np.uint16)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"1\.png.*55x42.*56x42"):
        load(tmp_path)


def test_depth_is_optional_and_needs_metric_poses(tmp_path: Path) -> None:
    data = write_cameras(tmp_path)
    images = data["images"]
    assert isinstance(images, list)
    images[0]["depth"] = None
    del images[1]["depth"]
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    depth = load(tmp_path).truth.depth
    assert depth is not None and torch.isnan(depth[:2]).all() and not torch.isnan(depth[2]).all()
    (tmp_path / "cameras.json").write_text(json.dumps({**data, "pose_scale": "sfm"}))
    scene = load(tmp_path)
    assert scene.truth.depth is None and not scene.truth.metric
    assert any("not metric" in note for note in scene.notes)


def test_a_cameras_json_of_another_program_is_ignored(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "cameras.json").write_text('[{"img_name": "a", "position": [0, 0, 0]}]')
    scene = load(tmp_path)
    assert names(scene) == ["a.jpg"] and scene.truth.extrinsics is None
    assert any("cameras.json" in note for note in scene.notes)
    (tmp_path / "cameras.json").write_text("{")
    with pytest.raises(DataError, match=r"cameras\.json"):
        load(tmp_path)


def test_what_is_cut_away_made_up_or_left_out_is_told(tmp_path: Path) -> None:
    save(tmp_path / "tall.png", (30, 60))
    save(tmp_path / "dot.png", (1, 1))
    Image.new("P", (28, 28)).save(tmp_path / "moving.gif")
    notes = load(tmp_path).notes
    assert "1 image of another format skipped, first moving.gif; convert to JPEG or PNG" in notes
    assert "dot.png is enlarged to more than 16 times as many pixels" in notes
    assert (
        "tall.png is taller than wide: top and bottom are cut off, 50 % of it; mode=pad keeps them" in notes
    )
    assert not any("cut off" in note for note in load(tmp_path, mode="pad").notes)
