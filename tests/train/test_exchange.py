"""The exchange test against predictors of which it is known what they look at."""

import pytest
import torch
from torch import Tensor

from vggtq.data.objects.layout import random_layout
from vggtq.data.procedural import Frames, relative_to_first
from vggtq.geometry import encode_pose
from vggtq.train.exchange import REFERENCES, exchange_test

SCENES, SHOTS, SIZE = 8, 3, 28


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Images whose first 16 numbers are the camera's pose in table axes and the scene's number: cameras in plain sight."""
    layout = random_layout(range(SCENES), SHOTS)
    rotation, centre = layout.rotation, layout.camera
    images = torch.zeros(SCENES, SHOTS, 3, SIZE, SIZE, dtype=torch.float64)
    images[:, :, 0, 0, :9] = rotation.flatten(2)
    images[:, :, 0, 0, 9:12] = centre
    images[:, :, 0, 0, 12] = torch.arange(SCENES)[:, None]
    intrinsics = torch.eye(3, dtype=torch.float64).expand(SCENES, SHOTS, 3, 3) * 30
    empty = torch.zeros(SCENES, SHOTS, 1, 1)
    return Frames(images, empty, empty, relative_to_first(rotation, centre), intrinsics, empty.bool())


def from_single_images(images: Tensor) -> Tensor:
    """Knows the azimuth of every camera around any table: the shortcut that the test is there to find."""
    rotation, centre = images[:, :, 0, 0, :9].unflatten(2, (3, 3)), images[:, :, 0, 0, 9:12]
    intrinsics = torch.eye(3, dtype=torch.float64).expand(*images.shape[:2], 3, 3) * 30
    return encode_pose(relative_to_first(rotation, centre), intrinsics, (SIZE, SIZE))


def from_pairs(images: Tensor) -> Tensor:
    """Finds a camera only where it shows the scene of the first one, and stays there otherwise."""
    encoding = from_single_images(images)
    scene = images[:, :, 0, 0, 12]
    same = (scene == scene[:, :1])[..., None]
    return torch.where(same, encoding, encoding[:, :1])


def test_a_predictor_that_needs_no_other_frame_is_found_out(frames: Frames) -> None:
    result = exchange_test(from_single_images, frames)
    assert result["normal"] == pytest.approx(1)
    assert result["alone"] == pytest.approx(1)
    assert result["share"] == pytest.approx(1)
    assert result["pair kept"] == pytest.approx(1)


def test_a_predictor_that_compares_frames_has_nothing_left_alone(frames: Frames) -> None:
    result = exchange_test(from_pairs, frames)
    assert result["normal"] == pytest.approx(1)
    assert result["pair kept"] == pytest.approx(1)
    assert result["share"] < 0.05


def test_too_few_scenes_are_refused(frames: Frames) -> None:
    few = Frames(*(t[:REFERENCES] for t in vars(frames).values()))
    with pytest.raises(ValueError, match="more than 4"):
        exchange_test(from_pairs, few)
