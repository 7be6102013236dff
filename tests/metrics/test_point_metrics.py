"""Point maps under known similarities, against brute force."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform
from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.metrics import points as module
from vggtq.metrics.points import confident, first_camera, point_metrics, true_points

ALL = torch.ones(2, 12, 16, dtype=torch.bool)


def surface(seed: int = 0) -> Tensor:
    """A curved surface seen twice, (2, 12, 16, 3)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 16), indexing="ij")
    first = torch.stack([x, y, 3 + 0.3 * torch.sin(3 * x) + 0.2 * y**2], -1)
    second = first + torch.tensor([0.4, 0.0, 0.1])
    return torch.stack([first, second]).double() + 1e-4 * torch.randn(2, 12, 16, 3, generator=generator)


def moved(points: Tensor, scale: float = 1.0) -> Tensor:
    rotation = torch.from_numpy(Rotation.from_euler("xyz", [20, -50, 70], degrees=True).as_matrix())
    return scale * points @ rotation.T + torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_a_similarity_is_undone(scale: float) -> None:
    result = point_metrics(moved(surface(), scale), surface(), ALL)
    assert result["overall"] < 1e-9
    assert result["relative_error_median"] < 1e-9
    assert result["normal_consistency"] == pytest.approx(1, abs=1e-9)
    assert result["points"] == ALL.sum()


def test_a_mirror_image_is_no_similarity() -> None:
    mirrored = surface() * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert point_metrics(mirrored, surface(), ALL)["relative_error_median"] > 0.02


def test_distances_match_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_align", lambda source, target: source)
    truth = surface()
    predicted = truth + 0.05 * torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    p, g = predicted.reshape(-1, 3).numpy(), truth.reshape(-1, 3).numpy()
    distances = np.linalg.norm(p[:, None] - g[None], axis=-1)
    result = point_metrics(predicted, truth, ALL)
    assert result["accuracy"] == pytest.approx(distances.min(1).mean())
    assert result["accuracy_median"] == pytest.approx(np.median(distances.min(1)))
    assert result["completeness"] == pytest.approx(distances.min(0).mean())
    assert result["overall"] == pytest.approx((distances.min(1).mean() + distances.min(0).mean()) / 2)
    scale = np.linalg.norm(g - g.mean(0), axis=1).mean()
    assert result["relative_error_median"] == pytest.approx(np.median(np.linalg.norm(p - g, axis=1)) / scale)


def test_normals_of_a_plane_turned_by_an_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_align", lambda source, target: source)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    flat = torch.stack([x, y, torch.zeros_like(x)], -1).double().expand(2, -1, -1, -1)
    turn = torch.from_numpy(Rotation.from_euler("x", 30, degrees=True).as_matrix())
    result = point_metrics(flat @ turn.T, flat.clone(), ALL)
    assert result["normal_consistency"] == pytest.approx(np.cos(np.radians(30)), abs=1e-6)


def test_icp_removes_what_correspondences_cannot() -> None:
    truth = surface()
    shifted = torch.roll(truth, 1, dims=2)  # the same surface, every pixel one column off
    inner = ALL.clone()
    inner[:, :, 0] = False
    plain, refined = (point_metrics(shifted, truth, inner, icp=icp)["overall"] for icp in (False, True))
    assert refined < plain


def test_only_masked_pixels_with_truth_count() -> None:
    truth, predicted, mask = surface(), surface(), ALL.clone()
    predicted[0, :3] = 1e6
    mask[0, :3] = False
    truth[1, 5] = torch.nan
    predicted[1, 5] = torch.nan
    result = point_metrics(predicted, truth, mask)
    assert result["overall"] < 1e-9
    assert result["points"] == 2 * 12 * 16 - 3 * 16 - 16


def test_broken_predictions_fail_and_missing_truth_is_undefined() -> None:
    broken = surface()
    broken[0, 0, 0] = torch.inf
    assert point_metrics(broken, surface(), ALL)["overall"] == float("inf")
    assert point_metrics(broken, surface(), ALL)["normal_consistency"] == 0
    assert point_metrics(torch.zeros(2, 12, 16, 3), surface(), ALL)["overall"] == float("inf")
    assert np.isnan(point_metrics(surface(), surface() * torch.nan, ALL)["overall"])


def test_confidence_keeps_the_most_confident_share() -> None:
    confidence = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(0))
    mask = confident(confidence)
    assert mask.double().mean() == pytest.approx(module.CONFIDENT_SHARE, abs=0.01)
    assert confidence[mask].min() > confidence[~mask].max()
    assert confident(torch.ones(2, 12, 16)).all()


def test_true_points_need_depth_and_cameras() -> None:
    depth = torch.full((1, 4, 6), 2.0)
    depth[0, 0, 0] = torch.nan
    pose = torch.eye(4, dtype=torch.float64)[None, :3]
    intrinsics = torch.tensor([[[10.0, 0, 3], [0, 10, 2], [0, 0, 1]]], dtype=torch.float64)
    points = true_points(GroundTruth(pose, intrinsics, depth))
    assert points is not None
    assert points[0, 2, 3].tolist() == [0, 0, 2]
    assert points[0, 2, 5].tolist() == pytest.approx([0.4, 0, 2])
    assert points[0, 0, 0].isnan().all()
    assert true_points(GroundTruth(pose, None, depth)) is None


def test_inliers_are_within_3_percent_of_the_distance_from_the_first_camera() -> None:
    """Brute force, with the camera away from the world's origin: the same error counts less far away."""
    random = np.random.default_rng(0)
    truth, turn = surface(), torch.from_numpy(Rotation.from_rotvec([0.3, -0.2, 0.1]).as_matrix())
    extrinsics = torch.cat([turn, torch.tensor([[0.4], [-1.0], [2.0]])], 1)[None].repeat(2, 1, 1).double()
    camera = first_camera(GroundTruth(extrinsics=extrinsics))
    assert np.allclose(turn.numpy() @ camera + extrinsics[0, :, 3].numpy(), 0)
    noise = torch.from_numpy(random.normal(0, 0.12, truth.shape))
    result = point_metrics(moved(truth + noise, 2.0), truth, ALL, camera=camera)
    source, target = (x.double().reshape(-1, 3).numpy() for x in (moved(truth + noise, 2.0), truth))
    fitted = SimilarityTransform.from_estimate(source, target)
    distances = np.linalg.norm(fitted(source) - target, axis=1)
    share = np.mean(distances < 0.03 * np.linalg.norm(target - camera, axis=1))
    assert 0.2 < share < 0.8 and result["inlier_1_03"] == pytest.approx(share)
    assert point_metrics(moved(truth + noise, 2.0), truth, ALL)["inlier_1_03"] != pytest.approx(share)
    assert point_metrics(moved(truth, 2.0), truth, ALL, camera=camera)["inlier_1_03"] == 1
