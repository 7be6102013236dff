"""The stereo pair of scikit-image: its geometry must reproduce the published disparities."""

import hashlib

import numpy as np
import pytest
import torch
from skimage.data import stereo_motorcycle

from vggtq.data.motorcycle import Motorcycle, depth_from_disparity, extrinsic_matrices, intrinsic_matrices
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError


@pytest.fixture(scope="module")
def scene() -> Scene:
    return next(Motorcycle().scenes())


def reproject(depth: np.ndarray, K: np.ndarray, E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of view 1 that see the points of view 0. depth (h, w); K (2, 3, 3); E (2, 3, 4)."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K[0]).T
    points = (rays * depth[..., None] - E[0, :, 3]) @ E[0, :, :3]
    seen = (points @ E[1, :, :3].T + E[1, :, 3]) @ K[1].T
    return seen[..., 0] / seen[..., 2], seen[..., 1] / seen[..., 2]


def test_projection_reproduces_the_disparities() -> None:
    disparity = stereo_motorcycle()[2]
    depth = depth_from_disparity(disparity)
    u, v = reproject(depth, intrinsic_matrices(), extrinsic_matrices())
    known = np.isfinite(disparity)
    rows, columns = np.nonzero(known)
    assert np.array_equal(known, np.isfinite(depth))
    # float32 depth of about 2 to 5 m
    assert np.abs(columns - u[known] - disparity[known]).max() < 1e-4
    assert np.abs(rows - v[known]).max() < 1e-6


def test_depth_is_metric_and_plausible() -> None:
    # f·B = 994.978 · 0.193001 = 192.0317 px·m, divided by doffs and by twice doffs
    near, nearer = depth_from_disparity(np.array([0.0, 31.086]))
    assert (near, nearer) == pytest.approx((192.03175 / 31.086, 192.03175 / 62.172), rel=1e-6)
    depth = depth_from_disparity(stereo_motorcycle()[2])
    assert 2.0 < np.nanmin(depth) < np.nanmax(depth) < 5.1


def test_scene(scene: Scene) -> None:
    # round(500 · 518/741 / 14) · 14
    assert scene.images.shape == (2, 3, 350, 518)
    assert [(f.width, f.height) for f in scene.files] == [(741, 500)] * 2
    left = stereo_motorcycle()[0]
    assert scene.files[0].sha256 == hashlib.sha256(left.tobytes()).hexdigest()
    assert scene.files[0].path == "motorcycle_left.png"
    truth = scene.truth
    assert truth.metric and truth.depth is not None
    assert truth.depth.dtype == torch.float32 and truth.depth.shape == (2, 350, 518)
    assert torch.isnan(truth.depth[1]).all()
    assert 0.9 < torch.isfinite(truth.depth[0]).float().mean() < 0.95


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_views_agree_after_preprocessing(mode: str) -> None:
    scene = next(Motorcycle(mode=mode).scenes())
    truth = scene.truth
    assert truth.depth is not None and truth.intrinsics is not None and truth.extrinsics is not None
    left, right = scene.images.mean(dim=1).numpy()
    depth = truth.depth[0].numpy()

    def difference(E: np.ndarray) -> float:
        u, v = reproject(depth, truth.intrinsics.numpy(), E)  # type: ignore[union-attr]
        seen = (u > -0.5) & (u < right.shape[1] - 0.5)
        columns, rows = np.rint(u[seen]).astype(int), np.rint(v[seen]).astype(int)
        return float(np.median(np.abs(left[seen] - right[rows, columns])))

    E = truth.extrinsics.numpy()
    mirrored = E.copy()
    mirrored[1, 0, 3] *= -1
    assert difference(E) < 0.02
    assert difference(mirrored) > 4 * difference(E)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="crop"):
        Motorcycle(mode="stretch")
