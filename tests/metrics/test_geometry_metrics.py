"""A scene scored in all its parts, means over scenes, and changes paired by scene."""

import pytest
import torch
from scipy import stats

from vggtq.data.scene import GroundTruth
from vggtq.geometry import encode_pose
from vggtq.metrics.ground_truth import change_over_scenes, evaluate, mean_over_scenes
from vggtq.metrics.points import true_points

SIZE = (12, 16)


def truth() -> GroundTruth:
    poses = torch.eye(4, dtype=torch.float64)[None, :3].repeat(3, 1, 1)
    poses[1, 0, 3], poses[2, 2, 3] = 0.5, -0.7
    intrinsics = torch.tensor([[[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]], dtype=torch.float64).repeat(3, 1, 1)
    depth = 2 + torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    return GroundTruth(poses, intrinsics, depth)


def perfect(known: GroundTruth) -> dict[str, torch.Tensor]:
    assert known.depth is not None
    points = true_points(known)
    assert points is not None
    return {
        "pose_enc": encode_pose(known.extrinsics, known.intrinsics, SIZE),
        "depth": 3 * known.depth[..., None],
        "world_points": 3 * points,
        "world_points_conf": torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)),
    }


def test_a_perfect_prediction_of_another_scale_scores_perfectly() -> None:
    outputs = perfect(truth())
    result = evaluate(outputs, truth(), "median", outputs["world_points_conf"])
    assert result["pose"]["auc_3"] == pytest.approx(1)
    assert result["depth"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert result["points"]["overall"] == pytest.approx(0, abs=1e-6)
    assert result["points"]["points"] == pytest.approx(0.8 * 3 * 12 * 16, abs=2)


def test_parts_without_truth_are_absent() -> None:
    outputs, known = perfect(truth()), truth()
    assert set(evaluate(outputs, GroundTruth(known.extrinsics))) == {"pose"}
    assert set(evaluate(outputs, GroundTruth(depth=known.depth))) == {"depth"}
    assert evaluate(outputs, GroundTruth()) == {}


def test_changes_are_paired_by_scene() -> None:
    reference = [{"depth": {"abs_rel": value, "pixels": 4}} for value in (0.1, 0.9, 0.2, 0.5)]
    shifts = (0.01, 0.02, 0.01, 0.02)
    quantized = [
        {"depth": {"abs_rel": r["depth"]["abs_rel"] + shift, "pixels": 4}}
        for r, shift in zip(reference, shifts, strict=True)
    ]
    change = change_over_scenes(quantized, reference)
    assert set(change["depth"]) == {"abs_rel"}
    expected = stats.ttest_1samp(shifts, 0).confidence_interval(0.95)
    assert change["depth"]["abs_rel"].low == pytest.approx(expected.low)
    assert change["depth"]["abs_rel"].high == pytest.approx(expected.high)
    assert mean_over_scenes(quantized)["depth"]["abs_rel"] == pytest.approx(0.44)
