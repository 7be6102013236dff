"""Pose errors against scipy's Rotation, and the AUC against cases computed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vggtq.metrics.pose import direction_angle_deg, pose_metrics, relative_pose_errors, rotation_angle_deg


def random_poses(frames: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(frames, random_state=seed).as_matrix()
    return torch.from_numpy(np.concatenate([rotation, rng.normal(size=(frames, 3, 1))], axis=-1))


def homogeneous(pose: np.ndarray) -> np.ndarray:
    return np.vstack([pose, [0, 0, 0, 1]])


def constant_errors(degrees: float) -> dict[str, float | int]:
    errors = torch.full((45,), degrees, dtype=torch.float64)
    return pose_metrics(errors, torch.zeros_like(errors))


@pytest.mark.parametrize("seed", range(3))
def test_errors_equal_a_loop_with_scipy_and_matrix_inverses(seed):
    predicted, truth = random_poses(4, seed), random_poses(4, seed + 100)
    rotation_deg, translation_deg = relative_pose_errors(predicted, truth)
    k = 0
    for i in range(4):
        for j in range(i + 1, 4):
            p, g = (
                homogeneous(x[i].numpy()) @ np.linalg.inv(homogeneous(x[j].numpy()))
                for x in (predicted, truth)
            )
            expected = np.degrees(Rotation.from_matrix(p[:3, :3].T @ g[:3, :3]).magnitude())
            cosine = p[:3, 3] @ g[:3, 3] / np.linalg.norm(p[:3, 3]) / np.linalg.norm(g[:3, 3])
            assert rotation_deg[k].item() == pytest.approx(expected, abs=1e-9)
            assert translation_deg[k].item() == pytest.approx(np.degrees(np.arccos(abs(cosine))), abs=1e-6)
            k += 1
    assert k == len(rotation_deg) == len(translation_deg)


def test_identical_float32_poses_have_no_error():
    poses = random_poses(6, 0).float()
    for errors in relative_pose_errors(poses, poses):
        assert errors.dtype == torch.float64
        assert errors.max() < 1e-12


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_world_frame_scale_and_order_of_arguments_do_not_matter(seed, scale):
    predicted, truth = random_poses(3, seed), random_poses(3, seed + 2000)
    world = torch.from_numpy(homogeneous(random_poses(1, seed + 5000)[0].numpy()))
    moved = predicted @ world
    moved[:, :, 3] *= scale
    expected = relative_pose_errors(predicted, truth)
    for other in (relative_pose_errors(moved, truth), relative_pose_errors(truth, predicted)):
        torch.testing.assert_close(other, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 90.0, 179.999, 180.0])
def test_rotation_angle_is_exact_near_0_and_180_degrees(degrees):
    matrix = Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix()
    assert rotation_angle_deg(torch.from_numpy(matrix)).item() == pytest.approx(degrees, rel=1e-7, abs=1e-12)


def test_sign_of_the_translation_is_ignored():
    truth = random_poses(2, 1)
    truth[:, :, :3] = torch.eye(3, dtype=torch.float64)
    opposite = truth.clone()
    opposite[:, :, 3] *= -1
    assert relative_pose_errors(opposite, truth)[1].max() < 1e-12


@pytest.mark.parametrize("vector", [[0.0, 0, 0], [np.inf, 1, 0], [np.nan, 1, 0]])
def test_a_vector_without_direction_has_no_angle(vector):
    a, b = torch.tensor([vector]), torch.tensor([[1.0, 0, 0]])
    assert direction_angle_deg(a, b).isnan().all()
    assert direction_angle_deg(b, a).isnan().all()


@pytest.mark.parametrize("length", [1e-200, 1.0, 1e200])
def test_angle_does_not_depend_on_length(length):
    a = torch.tensor([[length, length, 0]], dtype=torch.float64)
    assert direction_angle_deg(a, torch.tensor([[1.0, 0, 0]])).item() == pytest.approx(45)


def test_a_camera_that_only_turns_has_no_translation_direction():
    rotation = Rotation.random(2, random_state=3).as_matrix()
    turned = torch.from_numpy(np.concatenate([rotation, -rotation @ [[1.0], [2], [3]]], axis=-1))
    rotation_deg, translation_deg = relative_pose_errors(turned, turned)
    assert rotation_deg.max() < 1e-12
    assert translation_deg.isnan().all()


@pytest.mark.parametrize(
    ("degrees", "auc_30", "auc_3"),
    [(0.5, 1.0, 1.0), (1.0, 29 / 30, 2 / 3), (29.5, 1 / 30, 0), (30.0, 1 / 30, 0), (30.01, 0, 0)],
)
def test_auc_of_a_constant_error(degrees, auc_30, auc_3):
    metrics = constant_errors(degrees)
    assert metrics["auc_30"] == pytest.approx(auc_30)
    assert metrics["auc_3"] == pytest.approx(auc_3)
    assert auc_3 <= metrics["auc_5"] <= auc_30
    assert metrics["pairs"] == 45


def test_accuracies_count_errors_below_the_threshold():
    rotation = torch.tensor([1.0, 5.0, 14.9, 40.0])
    translation = torch.tensor([29.0, 31.0, 1.0, 4.0])
    metrics = pose_metrics(rotation, translation)
    assert [metrics[f"rra_{k}"] for k in (5, 15, 30)] == [0.25, 0.75, 0.75]
    assert [metrics[f"rta_{k}"] for k in (5, 15, 30)] == [0.5, 0.5, 0.75]
    # The worse error of each pair, 29, 31, 14.9 and 40: a quarter from the 15th bin on, half in the last.
    assert metrics["auc_30"] == pytest.approx((15 * 0.25 + 0.5) / 30)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 90), min_size=1, max_size=20))
def test_auc_equals_a_loop_over_thresholds(errors):
    e = torch.tensor(errors, dtype=torch.float64)
    recalls = [sum(x < t or (x == t == 30) for x in errors) / len(errors) for t in range(1, 31)]
    assert pose_metrics(e, e)["auc_30"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("entry", [(0, 0), (1, 3)], ids=["rotation", "translation"])
def test_predictions_that_are_not_finite_are_failures(broken, entry):
    truth = random_poses(3, 5)
    predicted = truth.clone()
    predicted[(1, *entry)] = broken
    metrics = pose_metrics(*relative_pose_errors(predicted, truth))
    assert metrics["pairs"] == 3
    assert metrics["auc_30"] == pytest.approx(1 / 3)
    assert metrics["rta_30"] == pytest.approx(1 / 3)


def test_one_frame_has_no_pairs():
    metrics = pose_metrics(*relative_pose_errors(random_poses(1, 0), random_poses(1, 1)))
    assert metrics.pop("pairs") == 0
    assert all(np.isnan(value) for value in metrics.values())


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(3, 3, 4\)"):
        relative_pose_errors(random_poses(2, 0), random_poses(3, 0))
