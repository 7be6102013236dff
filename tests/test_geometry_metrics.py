"""A scene scored in all its parts, means over scenes, and intervals that tell a change from noise."""

import math

import numpy as np
import pytest
import torch

from vggtq.data.scene import GroundTruth
from vggtq.geometry import encode_pose
from vggtq.metrics.geometry import change_over_scenes, evaluate, mean_over_scenes
from vggtq.metrics.interval import paired_interval
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
    result = evaluate(outputs, truth(), SIZE, "median", outputs["world_points_conf"])
    assert result["pose"]["auc_3"] == pytest.approx(1)
    assert result["depth"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert result["points"]["overall"] == pytest.approx(0, abs=1e-6)
    assert result["points"]["points"] == pytest.approx(0.8 * 3 * 12 * 16, abs=2)


def test_parts_without_truth_are_absent() -> None:
    outputs, known = perfect(truth()), truth()
    assert set(evaluate(outputs, GroundTruth(known.extrinsics), SIZE)) == {"pose"}
    assert set(evaluate(outputs, GroundTruth(depth=known.depth), SIZE)) == {"depth"}
    assert evaluate(outputs, GroundTruth(), SIZE) == {}


def test_changes_are_paired_by_scene() -> None:
    reference = [{"depth": {"abs_rel": value, "pixels": 4}} for value in (0.1, 0.9, 0.2, 0.5)]
    quantized = [{"depth": {"abs_rel": r["depth"]["abs_rel"] + 0.01, "pixels": 4}} for r in reference]
    change = change_over_scenes(quantized, reference)
    assert set(change["depth"]) == {"abs_rel"}
    assert change["depth"]["abs_rel"]["low"] == pytest.approx(0.01)
    assert change["depth"]["abs_rel"]["high"] == pytest.approx(0.01)
    assert mean_over_scenes(quantized)["depth"]["abs_rel"] == pytest.approx(0.435)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        interval = paired_interval(list(rng.normal(0.3, 1, 25)))
        hits += interval["low"] <= 0.3 <= interval["high"]  # type: ignore[operator]
    assert 85 <= hits <= 99


def test_one_scene_has_no_interval_and_failures_leave_none() -> None:
    assert paired_interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "scenes": 1}
    assert paired_interval([0.5, math.inf])["low"] is None
    assert paired_interval([0.5, math.nan, 0.7])["scenes"] == 2
    assert paired_interval([])["scenes"] == 0
