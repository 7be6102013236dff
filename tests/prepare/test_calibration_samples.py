"""Which images a recipe is calibrated on, and that none of them is evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.eth3d_files import write_scene
from helpers.runs import recorded
from vggtq.config.schema import Calibration
from vggtq.data.eth3d.scenes import ETH3D
from vggtq.data.images import ImageFolder, ImageSequences
from vggtq.data.rooms import Rooms
from vggtq.errors import ConfigError, DataError
from vggtq.prepare.diverse import diverse, outliers
from vggtq.prepare.samples import Samples

SETTINGS = [
    *("scheme=gptq_w4a16", "group_size=16", "scheme.rounding.clip=false"),
    *("calibration.samples=2", "calibration.frames=2"),
]


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    return folder


def test_sequences_of_a_folder_are_neighbours_that_do_not_overlap(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 10)

    def files(**changes: Any) -> list[list[str]]:
        dataset = ImageSequences(path=str(folder), image_size=28, **({"count": 99, "frames": 3} | changes))
        return [[file.path for file in scene.files] for scene in dataset.scenes()]

    assert sorted(files()) == [
        ["0.png", "1.png", "2.png"],
        ["3.png", "4.png", "5.png"],
        ["6.png", "7.png", "8.png"],
    ]
    assert files() == files() and any(files(seed=0) != files(seed=seed) for seed in range(1, 5))
    assert files(count=2) == files()[:2]
    assert files(frames=99) == [[f"{i}.png" for i in range(10)]]


def test_a_folders_own_samples_are_the_images_that_are_not_evaluated(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 10)
    evaluated = ImageFolder(path=str(folder), image_size=28, start=1, stride=2, max_images=3)
    sequences = evaluated.calibration(99, 2, 0)
    names = {file.path for scene in sequences.scenes() for file in scene.files}
    assert names == {"0.png", "2.png", "4.png", "6.png", "7.png", "8.png"}
    samples = Samples.of(Calibration(samples=3, dataset=sequences))
    samples.check_disjoint(next(evaluated.scenes()))
    with pytest.raises(DataError, match="none is left"):
        next(ImageFolder(path=str(folder), image_size=28).calibration(1, 2, 0).scenes())


def test_eth3ds_own_samples_are_other_places(tmp_path: Path) -> None:
    write_scene(tmp_path).rename(tmp_path / "relief")
    here = ETH3D(root=str(tmp_path), scene="relief_2", image_size=56).calibration(9, 2, 0)
    with pytest.raises(DataError, match=r"no scene but relief_2.*vggtq download courtyard"):
        next(here.scenes())
    both = ETH3D(root=str(tmp_path), scene="relief_2+courtyard", image_size=56).calibration(9, 2, 0)
    with pytest.raises(DataError, match=r"no scene but relief_2\+courtyard.*vggtq download delivery_area"):
        next(both.scenes())
    with pytest.raises(ConfigError, match="evaluates every scene"):
        next(ETH3D(scene="all").calibration(9, 2, 0).scenes())
    elsewhere = ETH3D(root=str(tmp_path), scene="courtyard", image_size=56).calibration(9, 2, 0)
    (scene,) = elsewhere.scenes()
    assert (scene.name, len(scene.images)) == ("relief from image 0", 2)


def test_rooms_own_samples_are_of_another_split() -> None:
    for split in ("train", "calibration", "test"):
        other = Rooms(size=[28, 28], split=split).calibration(3, 2, 5)
        assert other.split != split and (other.count, other.frames, other.seed) == (3, 2, 5)


def test_data_without_other_images_say_so(tmp_path: Path) -> None:
    record = recorded(tmp_path, *SETTINGS, "calibration=dataset")
    assert "dataset=motorcycle has no images that are not evaluated" in record["error"]["message"]
    missing = recorded(tmp_path, *SETTINGS, "calibration=images")["error"]["message"]
    assert "calibration.dataset.path is empty" in missing and " dataset.path" not in missing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "at least 1"),
        ({"frames": 0}, "at least 1 image"),
        ({"selection": "divers"}, "did you mean diverse"),
        ({"pool": 99}, "candidates are for selection=diverse"),
        ({"selection": "diverse", "pool": 3}, "at least as many as samples"),
    ],
)
def test_options_of_calibration_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration(**wrong)


def test_what_was_calibrated_on_is_never_evaluated(tmp_path: Path) -> None:
    rooms = Rooms(count=2, frames=2, size=[28, 28])
    samples = Samples.of(Calibration(dataset=rooms))
    first, other = next(rooms.scenes()), next(Rooms(frames=2, size=[28, 28], seed=1).scenes())
    samples.check_disjoint(other)
    with pytest.raises(DataError, match=r"image 0 of scene test-0-0 is among the calibration samples"):
        samples.check_disjoint(first)
    overlap = ["dataset=objects", "scenes=1", "frames=2", "size=[56,56]", "calibration.dataset.split=test"]
    record = recorded(tmp_path, *SETTINGS, *overlap)
    assert "among the calibration samples" in record["error"]["message"]


def test_the_same_photograph_is_known_by_its_file_however_it_was_cropped(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 2)
    samples = Samples.of(Calibration(samples=1, dataset=ImageSequences(path=str(folder), image_size=28)))
    with pytest.raises(DataError, match="image 0"):
        samples.check_disjoint(next(ImageFolder(path=str(folder), image_size=56, mode="pad").scenes()))


def test_a_record_says_what_the_recipe_was_calibrated_on(tmp_path: Path) -> None:
    choice = ["calibration.selection=diverse", "calibration.pool=5", "calibration.samples=3"]
    record = recorded(tmp_path, *SETTINGS, *choice)
    assert record["status"] == "ok", record["error"]
    calibration = record["calibration"]
    assert (calibration["name"], calibration["scenes"], calibration["frames"]) == ("objects", 3, 6)
    assert (calibration["selection"], calibration["candidates"]) == ("diverse", 5)
    assert set(calibration["samples"]) < {f"calibration-0-{i}" for i in range(5)}
    assert (calibration["passes"], calibration["groups"]) == (0, 10)
    assert (calibration["cached"], calibration["computed"]) == (0, 10)
    ratios = {layer["name"]: layer["special_ratio"] for layer in record["layers"]}
    assert ratios["aggregator.frame_blocks.0.attn.qkv"] > 0
    assert recorded(tmp_path, "scheme=int4_group", "group_size=16")["calibration"] is None


def test_fewer_samples_than_asked_for_are_noted(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 5)
    images = ["dataset=images", f"dataset.path={folder}", "dataset.max_images=1", "calibration=dataset"]
    record = recorded(tmp_path / "run", *images, *SETTINGS, "calibration.samples=3")
    assert record["status"] == "ok", record["error"]
    assert record["calibration"]["scenes"] == 2
    assert "calibration=dataset has 2 of the 3 samples asked for" in record["notes"]


@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 6), extra=st.integers(0, 20))
@settings(max_examples=30)
def test_a_choice_has_the_size_asked_for_and_no_candidate_twice(seed: int, clusters: int, extra: int) -> None:
    features = np.random.default_rng(seed).standard_normal((clusters + extra, 8))
    chosen = diverse(features, clusters, seed).chosen
    assert len(chosen) == len(set(chosen)) == clusters
    assert chosen == diverse(features, clusters, seed).chosen


def test_every_cluster_is_represented_and_lonely_candidates_are_not() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(4, 16)
    features = np.concatenate([c + rng.standard_normal((12, 16)) for c in centres] + [np.full((1, 16), 90.0)])
    selection = diverse(features, 4, seed=1)
    assert selection.outliers == [48]
    assert sorted(index // 12 for index in selection.chosen) == [0, 1, 2, 3]
    assert outliers(np.zeros((5, 3)), 4) == [], "candidates that are all the same"


def test_samples_are_the_same_in_memory_and_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Rooms(count=3, frames=2, size=[28, 28])
    found = []
    for limit in (2**28, 0):
        monkeypatch.setattr("vggtq.prepare.samples.IMAGE_BYTES", limit)
        samples = Samples.of(Calibration(dataset=rooms, samples=3))
        found.append((samples.sha256, *samples.images))
        assert (samples._overflow.file_bytes == 0) is (limit > 0)
        assert [images.shape for images in samples.inputs] == [(1, 2, 3, 28, 28)] * 3
    exact = [scene.images for scene in rooms.scenes()]
    assert found[0][0] == found[1][0]
    assert all(
        torch.equal(a, b) and torch.equal(a, c)
        for a, b, c in zip(exact, found[0][1:], found[1][1:], strict=True)
    )
