"""Cameras that do not fit the photographs are refused, with the convention under which they would."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from helpers.posed_photographs import Posed, grey, room, write_cameras_json, write_transforms
from vggtq.data.cameras.check import sampson
from vggtq.data.images import ImageFolder
from vggtq.data.rooms import Rooms
from vggtq.data.scene import Scene
from vggtq.errors import DataError
from vggtq.records.describe import describe_scene


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Posed:
    return room(tmp_path_factory.mktemp("room"), size=266, frames=3)


def load(posed: Posed, **options: object) -> Scene:
    return next(iter(ImageFolder(path=str(posed.folder), image_size=56, **options).scenes()))  # type: ignore[arg-type]


def test_right_cameras_pass_and_their_error_is_recorded(photographs: Posed) -> None:
    write_cameras_json(photographs)
    scene = load(photographs)
    assert scene.cameras is not None and scene.cameras.median_px is not None
    assert scene.cameras.median_px < 0.5 and scene.cameras.matches >= 40
    assert any("median epipolar error" in note and "read as opencv_w2c" in note for note in scene.notes)
    recorded = describe_scene(scene).cameras
    assert recorded is not None
    assert dataclasses.asdict(recorded) == dataclasses.asdict(scene.cameras)


@pytest.mark.parametrize("stored", ["opencv_c2w", "opengl_w2c", "opengl_c2w"])
def test_a_mistaken_convention_is_called_by_its_name(photographs: Posed, stored: str) -> None:
    write_cameras_json(photographs, stored)
    with pytest.raises(
        DataError, match=rf"not fit .* as opencv_w2c .* do as {stored} .*dataset\.convention={stored}"
    ):
        load(photographs)
    scene = load(photographs, convention=stored)
    assert scene.cameras is not None and scene.cameras.convention == stored
    assert scene.truth.extrinsics is not None
    assert np.allclose(scene.truth.extrinsics.numpy(), photographs.poses[:, :3])
    unchecked = load(photographs, check_cameras=False)
    assert unchecked.cameras is not None and unchecked.cameras.median_px is None
    assert "cameras were not checked: dataset.check_cameras=false" in unchecked.notes


def test_a_convention_declared_by_mistake_is_caught_too(photographs: Posed) -> None:
    write_cameras_json(photographs)
    with pytest.raises(DataError, match=r"as opengl_c2w .*dataset\.convention=opencv_w2c"):
        load(photographs, convention="opengl_c2w")


def test_cameras_that_fit_under_no_convention_are_pointed_out(photographs: Posed) -> None:
    write_cameras_json(dataclasses.replace(photographs, poses=photographs.poses[[1, 2, 0]]))
    scene = load(photographs)
    assert scene.cameras is not None and scene.cameras.median_px is not None
    assert scene.cameras.median_px > 5
    assert any("do not fit the photographs under any convention" in note for note in scene.notes)


def test_undistorted_photographs_are_checked_as_such(photographs: Posed) -> None:
    """Without distortion in the pictures, a lens that claims some is pulled away from what they show."""
    (photographs.folder / "cameras.json").unlink(missing_ok=True)
    write_transforms(photographs)
    right = load(photographs, cameras=str(photographs.folder / "transforms.json"))
    write_transforms(photographs, k1=-0.25)
    wrong = load(photographs, cameras=str(photographs.folder / "transforms.json"))
    assert right.cameras is not None and wrong.cameras is not None
    assert right.cameras.median_px is not None and wrong.cameras.median_px is not None
    assert right.cameras.median_px < 0.5 < wrong.cameras.median_px


def test_without_matches_nothing_is_claimed(tmp_path: Path) -> None:
    posed = grey(tmp_path)
    write_cameras_json(posed)
    scene = load(posed)
    assert scene.cameras is not None and scene.cameras.median_px is None
    assert any("cameras were not checked: too few points" in note for note in scene.notes)


def test_rendered_scenes_have_nothing_to_check() -> None:
    assert next(iter(Rooms(count=1, frames=2, size=[28, 28]).scenes())).cameras is None


def test_sampson_distances_are_those_of_scikit_image() -> None:
    from skimage.transform import FundamentalMatrixTransform

    rng = np.random.default_rng(0)
    K, relative = np.array([[50.0, 0, 27], [0, 51.0, 20], [0, 0, 1]]), np.eye(4)
    relative[:3, 3] = (0.3, -0.2, 0.5)
    a, b = rng.uniform(0, 50, (2, 30, 2))
    x, y, z = relative[:3, 3]
    inverse = np.linalg.inv(K)
    F = inverse.T @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ inverse
    assert np.allclose(sampson(relative, K, K, a, b), FundamentalMatrixTransform(F).residuals(a, b))
    # the projection of one point lies on its line; without a baseline there is none
    point = np.array([0.1, 0.2, 3.0])
    seen = [(K @ p)[None, :2] / p[2] for p in (point, point + relative[:3, 3])]
    assert sampson(relative, K, K, *seen)[0] < 1e-9
    assert np.isinf(sampson(np.eye(4), K, K, a, b)).all()
