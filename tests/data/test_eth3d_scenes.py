"""ETH3D: a miniature scene with analytic depth seen through a distorted camera, its layouts, and what may be missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.eth3d_files import plane_depth, rays_of_distorted_pixels, write_scene
from vggtq.data.eth3d.scenes import ETH3D, SCENES
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_scene(tmp_path)
    return tmp_path


def load(root: Path, **options: object) -> Scene:
    scenes = list(ETH3D(**{"root": str(root), "image_size": 210, **options}).scenes())  # type: ignore[arg-type]
    assert len(scenes) == 1
    return scenes[0]


def test_several_scenes_in_one_run_come_in_the_order_of_their_names(root: Path) -> None:
    shutil.copytree(root / "courtyard", root / "electro")
    both = ETH3D(root=str(root), scene="electro+courtyard+electro", image_size=210)
    scenes = list(both.scenes())
    assert [scene.name for scene in scenes] == ["electro", "courtyard"]
    assert torch.equal(scenes[1].images, load(root).images)
    assert ETH3D(scene="all").names == list(SCENES)
    with pytest.raises(ConfigError, match="did you mean electro"):
        ETH3D(scene="courtyard+electr")
    with pytest.raises(DataError, match="vggtq download office"):
        list(ETH3D(root=str(root), scene="courtyard+office", image_size=210).scenes())


def test_poses_and_intrinsics(root: Path) -> None:
    scene = load(root)
    truth = scene.truth
    assert scene.name == "courtyard" and truth.metric
    assert [f.path for f in scene.files] == [f"images/dslr_images_undistorted/DSC_{i}.JPG" for i in range(3)]
    assert truth.extrinsics is not None and truth.intrinsics is not None
    assert truth.extrinsics.dtype == truth.intrinsics.dtype == torch.float64
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(truth.extrinsics[1, :, :3], quarter_turn, atol=1e-6)
    assert truth.extrinsics[:, 0, 3].tolist() == [0.5, 1.5, 2.5]
    # 210x147 is kept, 147 rows become 140; only the half pixel of COLMAP comes off
    assert truth.intrinsics[0, 0].tolist() == pytest.approx([140.0, 0.0, 104.0])
    assert truth.intrinsics[0, 1, 1] == pytest.approx(141.0 * scene.images.shape[2] / 147)


def true_depth(scene: Scene) -> np.ndarray:
    K = scene.truth.intrinsics[0].numpy()  # type: ignore[index]
    v, u = np.mgrid[: scene.images.shape[2], : scene.images.shape[3]]
    return plane_depth((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1])


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_depth_follows_the_distortion(root: Path, mode: str) -> None:
    scene = load(root, mode=mode)
    depth = scene.truth.depth[0].numpy()  # type: ignore[index]
    error = np.abs(depth - true_depth(scene))
    known = np.isfinite(depth)
    # the nearest distorted pixel is at most half a pixel away per axis
    rendered = plane_depth(*rays_of_distorted_pixels())
    bound = 0.5 * sum(np.abs(np.diff(rendered, axis=axis)).max() for axis in (0, 1))
    assert error[known].max() < 1.05 * bound
    assert 0.85 < known[scene.images[0].mean(dim=0).numpy() < 0.9].mean() < 0.999
    # ignoring the distortion is wrong by many times that: the test can tell
    rows, columns = np.nonzero(known)
    ignored = rendered[np.minimum(rows, 139), np.minimum(columns, 199)] - true_depth(scene)[known]
    assert np.abs(ignored).max() > 4 * bound


def test_holes_and_padding_are_unknown(root: Path) -> None:
    scene = load(root, mode="pad")
    depth = scene.truth.depth[0].numpy()  # type: ignore[index]
    height = (scene.images[0] < 0.95).any(dim=0).any(dim=1).sum()
    assert scene.images.shape[-2:] == (210, 210) and height < 150
    assert np.isnan(depth[:30]).all() and np.isnan(depth[-30:]).all()
    # the hole of 20x20 distorted pixels lies at the centre, where both cameras nearly agree
    assert np.isnan(depth[100:110, 100:108]).all()


def test_masks_remove_what_is_not_for_evaluation(root: Path) -> None:
    masked = torch.isfinite(load(root).truth.depth).sum(dim=(1, 2))  # type: ignore[arg-type]
    free = torch.isfinite(load(root, use_masks=False).truth.depth).sum(dim=(1, 2))  # type: ignore[arg-type]
    assert masked[0] == free[0] == free[1]
    depth = load(root).truth.depth[1]  # type: ignore[index]
    # rows that are marked 1 (registration only) stay, rows that are marked 3 go
    assert torch.isfinite(depth[5]).any() and not torch.isfinite(depth[-15:]).any()
    assert masked[1] < free[1]


def test_the_other_layout(tmp_path: Path) -> None:
    write_scene(tmp_path, images="dslr_images_undistorted")
    scene = load(tmp_path, start=1, stride=2)
    assert [f.path for f in scene.files] == ["dslr_images_undistorted/DSC_1.JPG"]


def test_without_the_distorted_calibration_depth_is_not_used(root: Path) -> None:
    (root / "courtyard/dslr_calibration_jpg/cameras.txt").unlink()
    scene = load(root)
    assert scene.truth.depth is None and scene.truth.extrinsics is not None
    assert any("parts=jpg" in note for note in scene.notes)
    assert load(root, use_depth=False).notes == ()


def test_frames_without_depth_are_noted(root: Path) -> None:
    (root / "courtyard/ground_truth_depth/dslr_images/DSC_0.JPG").unlink()
    images = root / "courtyard/dslr_calibration_jpg/images.txt"
    images.write_text(images.read_text().replace("2.5 -1 2 7", "9.5 -1 2 7"))
    scene = load(root)
    known = torch.isfinite(scene.truth.depth).any(dim=2).any(dim=1)  # type: ignore[arg-type]
    assert known.tolist() == [False, True, False]
    assert [note.split()[0] for note in scene.notes] == ["DSC_0.JPG", "DSC_2.JPG"]


def test_missing_scene_prints_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"vggtq download courtyard root={tmp_path}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("images/dslr_images_undistorted/DSC_1.JPG", r"1 of 3 images is missing.*DSC_1\.JPG"),
        ("dslr_calibration_undistorted/images.txt", r"images\.txt"),
    ],
)
def test_missing_files(root: Path, file: str, message: str) -> None:
    (root / "courtyard" / file).unlink()
    with pytest.raises(DataError, match=message):
        load(root)


def test_damaged_files(root: Path) -> None:
    mask = root / "courtyard/masks_for_images/dslr_images/DSC_1.png"
    Image.new("L", (3, 3)).save(mask)
    with pytest.raises(DataError, match=r"DSC_1\.png has shape"):
        load(root)
    depth = root / "courtyard/ground_truth_depth/dslr_images/DSC_0.JPG"
    depth.write_bytes(depth.read_bytes()[:-4])
    with pytest.raises(DataError, match="111996 bytes, expected 112000"):
        load(root)
    Image.new("RGB", (21, 14)).save(root / "courtyard/images/dslr_images_undistorted/DSC_2.JPG")
    with pytest.raises(DataError, match=r"DSC_2\.JPG is 21x14.*210x147"):
        load(root)


def test_unknown_scene() -> None:
    with pytest.raises(ConfigError, match="did you mean courtyard") as raised:
        ETH3D(scene="courtyart")
    assert len(SCENES) == 13 and all(scene in str(raised.value) for scene in SCENES)
