"""Pose encodings against SciPy's rotations and hand-made cameras."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vggtq.geometry import (
    decode_pose,
    encode_pose,
    invert_se3,
    matrix_to_quaternion,
    quaternion_to_matrix,
    unproject_depth,
)

RNG = np.random.default_rng(0)
ROTATIONS = Rotation.random(200, random_state=0)
HALF_TURNS = Rotation.from_quat(
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1e-9]]
)


@pytest.mark.parametrize("length", [1.0, -0.01, 300.0])
def test_quaternions_of_any_length_are_scipys_rotations(length: float) -> None:
    quaternions = torch.from_numpy(ROTATIONS.as_quat()) * length
    expected = torch.from_numpy(ROTATIONS.as_matrix())
    assert (quaternion_to_matrix(quaternions) - expected).abs().max() < 1e-13


@pytest.mark.parametrize("rotations", [ROTATIONS, HALF_TURNS], ids=["random", "half-turns"])
def test_matrices_become_scipys_quaternions(rotations: Rotation) -> None:
    out = matrix_to_quaternion(torch.from_numpy(rotations.as_matrix())).numpy()
    assert (out[:, 3] >= 0).all()
    dots = np.abs((out * rotations.as_quat()).sum(1))
    assert np.abs(dots - 1).max() < 1e-12
    assert np.abs(np.linalg.norm(out, axis=1) - 1).max() < 1e-12


def test_decoded_camera_by_hand() -> None:
    """90° of vertical and 60° of horizontal view on 200 rows × 300 columns."""
    encoding = torch.tensor(
        [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 2.0, math.pi / 2, math.pi / 3], dtype=torch.float64
    )
    extrinsics, intrinsics = decode_pose(encoding, (200, 300))
    assert extrinsics.tolist() == [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]]
    expected = torch.tensor([[150 * math.sqrt(3), 0, 150], [0, 100, 100], [0, 0, 1]], dtype=torch.float64)
    assert (intrinsics - expected).abs().max() < 1e-12


def test_no_field_of_view_is_an_infinite_focal_length() -> None:
    _, intrinsics = decode_pose(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0, 0]), (10, 10))
    assert intrinsics[0, 0].isinf() and intrinsics[1, 1].isinf()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_encode_inverts_decode(dtype: torch.dtype, tolerance: float) -> None:
    quaternions = ROTATIONS.as_quat(canonical=True)
    fields = RNG.uniform(0.2, 2.5, (200, 2))
    encoding = np.concatenate([RNG.normal(size=(200, 3)), quaternions, fields], axis=1)
    source = torch.from_numpy(encoding).to(dtype).reshape(2, 100, 9)
    extrinsics, intrinsics = decode_pose(source, (350, 518))
    again = encode_pose(extrinsics, intrinsics, (350, 518))
    assert extrinsics.shape == (2, 100, 3, 4) and intrinsics.shape == (2, 100, 3, 3)
    assert extrinsics.dtype == intrinsics.dtype == again.dtype == dtype
    assert (again - source).abs().max() < tolerance


def cameras(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rotation = torch.from_numpy(ROTATIONS.as_matrix()[:count])
    extrinsics = torch.cat([rotation, torch.from_numpy(RNG.normal(size=(count, 3, 1)))], dim=-1)
    intrinsics = torch.tensor([[40.0, 0, 8.5], [0, 50.0, 6.25], [0, 0, 1]], dtype=torch.float64)
    return extrinsics, intrinsics.expand(count, 3, 3)


def test_inverse_is_numpys() -> None:
    extrinsics, _ = cameras(5)
    full = np.concatenate([extrinsics.numpy(), np.tile([[[0, 0, 0, 1.0]]], (5, 1, 1))], axis=1)
    for given in (extrinsics, torch.from_numpy(full)):
        assert np.abs(invert_se3(given).numpy() - np.linalg.inv(full)).max() < 1e-12


def test_unprojected_points_project_back_to_their_pixels_and_depths() -> None:
    extrinsics, intrinsics = cameras(3)
    depth = torch.from_numpy(RNG.uniform(0.5, 9, (3, 11, 17)))
    points = unproject_depth(depth, extrinsics, intrinsics).numpy()
    assert points.shape == (3, 11, 17, 3) and points.dtype == np.float64
    for s in range(3):
        camera = points[s].reshape(-1, 3) @ extrinsics[s, :, :3].numpy().T + extrinsics[s, :, 3].numpy()
        pixels = camera @ intrinsics[s].numpy().T
        v, u = np.mgrid[:11, :17]
        assert np.abs(pixels[:, 0] / pixels[:, 2] - u.ravel()).max() < 1e-10
        assert np.abs(pixels[:, 1] / pixels[:, 2] - v.ravel()).max() < 1e-10
        assert np.abs(camera[:, 2] - depth[s].numpy().ravel()).max() < 1e-12


def test_unprojection_takes_the_networks_depth_and_keeps_float32() -> None:
    extrinsics, intrinsics = (x.float() for x in cameras(2))
    depth = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    out = unproject_depth(depth[..., None], extrinsics, intrinsics)
    assert out.dtype == torch.float32
    assert torch.equal(out, unproject_depth(depth, extrinsics, intrinsics))
