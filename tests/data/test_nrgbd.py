"""Neural RGB-D on small files in its layout, and images at a fixed stride."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.nrgbd_files import write_poses, write_room
from helpers.posed_photographs import as_stored, grey, write_pose_files
from vggtq.config.validate import composed
from vggtq.data.nrgbd import NeuralRGBD
from vggtq.data.published import SevenScenes
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError


def room(root: Path, **options: Any) -> Scene:
    (scene,) = NeuralRGBD(root=str(root), scene="kitchen", image_size=56, **options).scenes()
    return scene


def order_of(scene: Scene) -> list[str]:
    return [Path(file.path).name for file in scene.files]


def test_a_room_is_read_with_its_cameras_and_depth(tmp_path: Path) -> None:
    made = write_room(tmp_path, "kitchen", 12)
    scene = room(tmp_path, frames=None, stride=5)
    assert scene.name == "kitchen" and order_of(scene) == ["img0.png", "img5.png", "img10.png"]
    truth = scene.truth
    assert truth.extrinsics is not None and truth.intrinsics is not None and truth.depth is not None
    assert np.allclose(truth.extrinsics.numpy(), made.poses[[0, 5, 10], :3], atol=1e-6)
    assert np.allclose(truth.intrinsics.numpy(), made.K)
    assert truth.metric and (truth.depth[:, :, :28] == 2.5).all() and truth.depth[:, :, 28:].isnan().all()
    files = NeuralRGBD(root=str(tmp_path), scene="kitchen", frames=2).inputs()
    assert [file.name for file in files[:2]] == ["poses.txt", "focal.txt"]
    assert files[-1].name == "depth11.png"


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"frames": None, "stride": 4}, [0, 4, 8]),
        ({"frames": 2, "stride": 4}, [0, 4]),
        ({"frames": None, "stride": 500}, [0, 6]),  # of a walk that is too short the first and the middle
        ({"frames": 3}, [0, 6, 11]),  # spread
    ],
)
def test_images_at_a_stride(tmp_path: Path, options: dict[str, Any], taken: list[int]) -> None:
    write_room(tmp_path, "kitchen", 12)
    scene = room(tmp_path, **options)
    assert order_of(scene) == [f"img{i}.png" for i in taken]
    assert not any("fewer than" in note for note in scene.notes)


def test_images_without_a_pose_are_left_out(tmp_path: Path) -> None:
    made = write_room(tmp_path, "kitchen", 4)
    poses = as_stored(made.poses, "opengl_c2w")
    poses[1] = np.nan
    write_poses(made.folder, poses)
    scene = room(tmp_path)
    assert order_of(scene) == ["img0.png", "img2.png", "img3.png"]
    assert "1 image without a pose left out" in scene.notes


def _cut(folder: Path) -> None:
    lines = (folder / "poses.txt").read_text().splitlines()
    (folder / "poses.txt").write_text("\n".join(lines[:-1]))


def _short_row(folder: Path) -> None:
    (folder / "poses.txt").write_text("1 0 0 0\n0 1 0\n")


def _fewer_images(folder: Path) -> None:
    (folder / "images/img3.png").unlink()


def _without_pose(folder: Path) -> None:
    write_poses(folder, np.full((4, 4, 4), np.nan))


def _sheared(folder: Path) -> None:
    write_poses(folder, np.tile(np.diag([2.0, 1, 1, 1]), (4, 1, 1)))


def _no_focal(folder: Path) -> None:
    (folder / "focal.txt").write_text("-3\n")


def _focal_gone(folder: Path) -> None:
    (folder / "focal.txt").unlink()


def _first_broken(folder: Path) -> None:
    (folder / "images/img0.png").write_bytes(b"no png")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_cut, r"poses\.txt: 15 rows, expected four of each image; it was cut off, unpack it again"),
        (_short_row, r"poses\.txt: row 1 has 3 numbers, each has four"),
        (_fewer_images, r"poses\.txt has 4 cameras, images/ has 3 files .*unpack kitchen again"),
        (_without_pose, r"no camera has a pose, all are nan"),
        (_sheared, r"poses\.txt, camera 0: its left 3x3 part is not a rotation"),
        (_no_focal, r"focal\.txt: \[-3\.0\] is not one focal length above 0"),
        (_focal_gone, r"cannot read .*focal\.txt"),
        (_first_broken, r"cannot read .*img0\.png.*unpack it again"),
    ],
)
def test_what_is_wrong_with_a_room_is_named(
    tmp_path: Path, damage: Callable[[Path], None], text: str
) -> None:
    damage(write_room(tmp_path, "kitchen", 4).folder)
    with pytest.raises(DataError, match=text):
        room(tmp_path)


def test_rooms_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_room(tmp_path, "kitchen", 4)
    with pytest.raises(DataError, match=r"poses\.txt of breakfast_room, .*whiteroom not found.*scene="):
        list(NeuralRGBD(root=str(tmp_path)).scenes())
    write_room(tmp_path, "own", 4)
    scenes = NeuralRGBD(root=str(tmp_path), scene="own+kitchen", image_size=56).scenes()
    assert [scene.name for scene in scenes] == ["kitchen", "own"]


def test_depth_can_be_required(tmp_path: Path) -> None:
    made = write_room(tmp_path, "kitchen", 4)
    (made.folder / "depth/depth2.png").unlink()
    with pytest.raises(
        DataError, match=r"kitchen: 1 of 4 images have no depth, first .*img2\.png; .*docs/data"
    ):
        room(tmp_path, require_depth=True)
    assert room(tmp_path).truth.depth is not None
    posed = grey(tmp_path / "chess/seq-03", 6, names="frame-{:06d}.color.png")
    write_pose_files(posed)
    (tmp_path / "chess/TestSplit.txt").write_text("sequence3\n")
    seven: dict[str, Any] = {
        "root": str(tmp_path),
        "scene": "chess",
        "image_size": 56,
        "frames": None,
        "stride": 2,
    }
    (scene,) = SevenScenes(**seven).scenes()
    assert len(scene.images) == 3 and scene.truth.depth is None
    with pytest.raises(DataError, match=r"chess/seq-03: 3 of 3 images have no depth"):
        list(SevenScenes(**seven, require_depth=True).scenes())


def test_a_wrong_stride_is_found_without_files() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.stride=0: must be 1 or more, or null"):
        NeuralRGBD(stride=0)


@pytest.mark.parametrize("name", ["nrgbd", "seven_scenes"])
def test_a_stride_is_set_on_the_command_line(name: str) -> None:
    dataset = composed(
        [f"dataset={name}", "frames=null", "dataset.stride=100", "dataset.require_depth=true"]
    ).dataset
    assert (dataset.name, dataset.frames, dataset.stride, dataset.require_depth) == (name, None, 100, True)
