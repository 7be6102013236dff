"""ETH3D in sets of overlapping images: overlap against geometry, sets that are joined, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from helpers.eth3d_files import DISTORTED_SIZE, OFFSET, write_scene
from vggtq.config.validate import composed
from vggtq.data.cameras.colmap import read_cameras, read_images
from vggtq.data.eth3d.scenes import ETH3D
from vggtq.data.eth3d.sets import ETH3DSets, covisibility
from vggtq.errors import ConfigError, DataError

ALONG_X = (0.0, 2.0, 4.0, 5.9, 40.0)  # where the cameras stand, metres


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cameras side by side in front of a wall, 4 metres away; the last one sees nothing of what the others see."""
    folder = write_scene(tmp_path, count=len(ALONG_X))
    for name in ("dslr_calibration_undistorted", "dslr_calibration_jpg"):
        file = folder / name / "images.txt"
        place = "dslr_images_undistorted" if "undistorted" in name else "dslr_images"
        poses = [f"{i} 1 0 0 0 {-x} 0 0 7 {place}/DSC_{i}.JPG\n" for i, x in enumerate(ALONG_X)]
        file.write_text("\n".join(poses) + "\n")
    wall = np.full((DISTORTED_SIZE[1], DISTORTED_SIZE[0]), OFFSET, dtype="<f4")
    for file in (folder / "ground_truth_depth/dslr_images").iterdir():
        file.write_bytes(wall.tobytes())
    return tmp_path


def sets(root: Path, **options: object) -> ETH3DSets:
    return ETH3DSets(**{"root": str(root), "scene": "courtyard", "image_size": 210, **options})  # type: ignore[arg-type]


def test_overlap_is_that_of_the_images(root: Path) -> None:
    calibration = root / "courtyard/dslr_calibration_undistorted"
    cameras = read_cameras(calibration / "cameras.txt")
    images = sorted(read_images(calibration / "images.txt", cameras).values(), key=lambda image: image.name)
    share = covisibility(root / "courtyard", images, [cameras[image.camera_id] for image in images])
    # A metre to the side moves the wall by 140 / 4 of the image's 210 pixels. The fisheye image leaves out corners.
    apart = np.abs(np.subtract.outer(ALONG_X, ALONG_X))
    assert np.abs(share - np.clip(1 - apart * 35 / 210, 0, 1)).max() < 0.06
    assert np.array_equal(share, share.T)


def test_sets_are_joined_drawn_by_the_seed_and_named(root: Path) -> None:
    found = list(sets(root, frames=3, count=6).scenes())
    assert [scene.name for scene in found] == [f"courtyard/{i}" for i in range(6)]
    drawn = [[int(Path(file.path).stem[-1]) for file in scene.files] for scene in found]
    for chosen in drawn:
        assert len(set(chosen)) == 3 and 4 not in chosen
    assert len({tuple(chosen) for chosen in drawn}) > 1
    again = list(sets(root, frames=3, count=6).scenes())
    assert [scene.files for scene in again] == [scene.files for scene in found]
    assert found[0].truth.depth is not None and found[0].truth.extrinsics is not None
    assert float(found[0].truth.extrinsics[0, 0, 3]) == pytest.approx(-ALONG_X[drawn[0][0]])
    pairs = list(sets(root, covisibility=0.5).scenes())
    for scene in pairs:
        a, b = (ALONG_X[int(Path(file.path).stem[-1])] for file in scene.files)
        assert abs(a - b) <= 3
    files = sets(root, frames=3, count=6).inputs()
    assert len(files) == len(set(files)) and all(file.is_file() for file in files)


def test_what_cannot_be_drawn_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"no 5 of its 5 images are joined by a covisibility of 0.025"):
        list(sets(root, frames=5).scenes())
    with pytest.raises(ConfigError, match="frames=1: must be 2"):
        sets(root, frames=1)
    with pytest.raises(ConfigError, match="a share between 0 and 1"):
        sets(root, covisibility=1.5)
    with pytest.raises(DataError, match=r"knows no image DSC_9.JPG; dataset.images takes"):
        ETH3D(root=str(root), images=["DSC_9.JPG"]).inputs()
    (root / "courtyard/dslr_calibration_jpg/cameras.txt").unlink()
    with pytest.raises(DataError, match="vggtq download courtyard parts=depth"):
        list(sets(root, count=7).scenes())


def test_the_configuration_composes() -> None:
    config = composed(["dataset=eth3d_sets", "scenes=3", "frames=4"])
    assert (config.dataset.count, config.dataset.frames, config.dataset.seed) == (3, 4, 777)
