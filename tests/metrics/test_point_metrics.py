"""Point maps under known similarities, against brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform
from torch import Tensor

from vggtq.config.names import config_hash
from vggtq.data.scene import GroundTruth
from vggtq.errors import ConfigError
from vggtq.metrics import points as module
from vggtq.metrics.point_options import Points
from vggtq.metrics.points import confident, counted, first_camera, point_metrics, true_points

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


def test_which_points_count() -> None:
    shape = torch.Size((2, 12, 16))
    confidence = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert (counted(shape, confidence, Points()) == confident(confidence)).all()
    assert counted(shape, confidence, Points(share=1.0)).all() and counted(shape, None, Points()).all()
    middle = counted(shape, None, Points(crop=4))
    assert middle.sum() == 2 * 4 * 4 and middle[:, 4:8, 6:10].all()
    assert counted(shape, None, Points(crop=14)).sum() == 2 * 12 * 14, (
        "where an image is lower than the square"
    )
    both = counted(shape, confidence, Points(share=0.5, crop=4))
    assert (both == (confident(confidence, 0.5) & middle)).all() and 0 < both.sum() < middle.sum()
    # half of the points has half of the distances, and all points are all of them
    assert point_metrics(surface(), surface(), ALL, options=Points(most=100))["accuracy"] < 1e-9
    clouds = [module._thinned(ALL.numpy(), most).sum() for most in (100, 1000, None)]
    assert clouds[0] <= 100 < clouds[1] == clouds[2] == ALL.sum()


def test_normals_of_the_nearest_points_are_those_of_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 50)
    random = np.random.default_rng(0)
    axis = np.array([1.0, 2.0, 2.0]) / 3
    across = np.linalg.svd(axis[None])[2][1:]
    plane = random.normal(size=(120, 2)) @ across + 5 * axis
    normals = module._plane_normals(plane)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1) and np.allclose(np.abs(normals @ axis), 1)
    few = module._plane_normals(plane[:5])  # fewer than 30
    assert np.allclose(np.abs(few @ axis), 1)


@pytest.mark.parametrize("normals", ["grid", "neighbours"])
def test_normals_of_a_turned_plane_by_either_way(normals: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_align", lambda source, target: source)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    flat = torch.stack([x, y, torch.zeros_like(x)], -1).double().expand(2, -1, -1, -1)
    turn = torch.from_numpy(Rotation.from_euler("x", 30, degrees=True).as_matrix())
    result = point_metrics(flat @ turn.T, flat.clone(), ALL, options=Points(normals=normals))
    for key in ("normal_consistency", "normal_consistency_median"):
        assert result[key] == pytest.approx(np.cos(np.radians(30)), abs=1e-6)


def test_the_median_of_normals_is_that_of_each_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_align", lambda source, target: source)
    truth = surface()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clouds = [module._cloud(p.numpy(), ALL.numpy(), "neighbours") for p in (truth + 0.05 * noise, truth)]
    medians = []
    for first, second in (clouds, clouds[::-1]):
        nearest = np.linalg.norm(first.points[:, None] - second.points[None], axis=-1).argmin(1)
        medians.append(np.median(np.abs((first.normals * second.normals[nearest]).sum(1))))
    result = point_metrics(truth + 0.05 * noise, truth, ALL, options=Points(normals="neighbours"))
    assert result["normal_consistency_median"] == pytest.approx(np.mean(medians))
    assert np.isnan(point_metrics(truth, truth * torch.nan, ALL)["normal_consistency_median"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"share": 0.0}, r"points\.share=0\.0: use a share above 0"),
        ({"share": 80.0}, r"points\.share=80\.0"),
        ({"most": 0}, r"points\.most=0: use at least 1, or null for all points"),
        ({"crop": -2}, r"points\.crop=-2: use at least 1, or null for the whole image"),
        ({"normals": "neighbors"}, r"points\.normals=neighbors .*did you mean neighbours"),
    ],
)
def test_wrong_point_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Points(**options)


def test_runs_of_before_there_were_point_options_keep_their_hash() -> None:
    assert config_hash({"seed": 0, "points": vars(Points())}) == config_hash({"seed": 0})
    assert config_hash({"seed": 0, "points": vars(Points(crop=224))}) != config_hash({"seed": 0})
