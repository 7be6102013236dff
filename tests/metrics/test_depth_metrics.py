"""Depth errors against brute force in numpy, and one scene's scores with their mean over scenes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vggtq.data.scene import GroundTruth
from vggtq.errors import ConfigError
from vggtq.metrics.depth import depth_metrics
from vggtq.metrics.ground_truth import evaluate, mean_over_scenes


def random_depths(seed: int, frames: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 10, (frames, 5, 6)).astype(np.float32)
    predicted = (truth * rng.uniform(0.5, 1.7, truth.shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return torch.from_numpy(predicted), torch.from_numpy(truth)


@pytest.mark.parametrize("alignment", ["median", "lstsq", "none"])
def test_metrics_equal_brute_force(alignment):
    predicted, truth = random_depths(0)
    pairs = [
        (float(p), float(g))
        for p, g in zip(predicted.flatten(), truth.flatten(), strict=True)
        if not math.isnan(g)
    ]
    p, g = (np.array(x) for x in zip(*pairs, strict=True))
    solved = np.linalg.lstsq(p[:, None], g, rcond=None)[0][0]
    scale = {"median": np.median(g) / np.median(p), "lstsq": solved, "none": 1.0}[alignment]
    metrics = depth_metrics(predicted, truth, alignment)
    assert metrics["scale"] == pytest.approx(scale)
    assert metrics["abs_rel"] == pytest.approx(np.mean([abs(scale * a - b) / b for a, b in pairs]))
    assert metrics["rmse"] == pytest.approx(math.sqrt(np.mean([(scale * a - b) ** 2 for a, b in pairs])))
    for key, factor in (("delta_1_25", 1.25), ("inlier_1_03", 1.03)):
        inliers = [max(scale * a / b, b / (scale * a)) < factor for a, b in pairs]
        assert 0 < metrics[key] < 1
        assert metrics[key] == pytest.approx(np.mean(inliers))
    assert metrics["valid_pixels"] == len(pairs)
    assert metrics["non_finite_pixels"] == 0
    assert metrics["alignment"] == alignment


@pytest.mark.parametrize("alignment", ["median", "lstsq", "none"])
def test_identical_depths_are_perfect(alignment):
    _, truth = random_depths(1)
    metrics = depth_metrics(truth.nan_to_num(7.0), truth, alignment)
    assert metrics["abs_rel"] == pytest.approx(0, abs=1e-12)
    assert metrics["rmse"] == pytest.approx(0, abs=1e-12)
    assert metrics["delta_1_25"] == 1
    assert metrics["scale"] == pytest.approx(1)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from(["median", "lstsq"]))
def test_alignment_removes_the_scale_of_the_prediction(seed, factor, alignment):
    predicted, truth = (x.double() for x in random_depths(seed))
    plain, scaled = (depth_metrics(predicted * f, truth, alignment) for f in (1.0, factor))
    assert scaled["abs_rel"] == pytest.approx(plain["abs_rel"], rel=1e-6)
    assert scaled["scale"] == pytest.approx(plain["scale"] / factor, rel=1e-6)


def test_the_scale_is_one_per_sequence():
    truth = torch.ones(2, 4, 4)
    predicted = torch.stack([torch.ones(4, 4), torch.full((4, 4), 4.0)])
    assert depth_metrics(predicted, truth)["abs_rel"] > 0.5


def test_delta_excludes_its_boundary():
    truth = torch.full((1, 1, 2), 4.0)
    assert depth_metrics(torch.tensor([[[5.0, 3.3]]]), truth, "none")["delta_1_25"] == 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_prediction_fails_and_cannot_win(broken):
    truth = torch.full((1, 2, 2), 2.0)
    predicted = truth.clone()
    predicted[0, 0, 0] = broken
    metrics = depth_metrics(predicted, truth)
    assert metrics["abs_rel"] == metrics["rmse"] == math.inf
    assert metrics["delta_1_25"] == 0.75
    assert metrics["non_finite_pixels"] == 1
    assert metrics["scale"] == 1


def test_a_broken_prediction_without_ground_truth_does_not_count():
    truth = torch.tensor([[[2.0, math.nan]]])
    metrics = depth_metrics(torch.tensor([[[2.0, math.inf]]]), truth)
    assert metrics["abs_rel"] == 0
    assert metrics["non_finite_pixels"] == 0


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_prediction_that_is_not_positive_is_an_error_of_its_size(value):
    metrics = depth_metrics(torch.tensor([[[2.0, 2.0, 2.0, value]]]), torch.full((1, 1, 4), 2.0))
    assert metrics["delta_1_25"] == 0.75
    assert metrics["abs_rel"] == pytest.approx((2 - value) / 2 / 4)


@pytest.mark.parametrize("value", [-1.0, math.nan], ids=["negative", "nan"])
def test_without_a_usable_prediction_everything_fails(value):
    metrics = depth_metrics(torch.full((1, 2, 2), value), torch.ones(1, 2, 2))
    assert math.isnan(metrics["scale"])
    assert metrics["abs_rel"] == metrics["rmse"] == math.inf
    assert metrics["delta_1_25"] == 0


@pytest.mark.parametrize("alignment", ["median", "lstsq", "none"])
@pytest.mark.parametrize("invalid", [math.nan, math.inf, 0.0, -1.0])
def test_without_a_valid_pixel_everything_is_undefined(alignment, invalid):
    metrics = depth_metrics(torch.ones(1, 2, 2), torch.full((1, 2, 2), invalid), alignment)
    assert all(math.isnan(metrics[key]) for key in ("abs_rel", "delta_1_25", "rmse", "scale"))
    assert metrics["valid_pixels"] == 0


def test_an_unknown_alignment_lists_the_options():
    with pytest.raises(ConfigError, match="one of median, lstsq, none; did you mean median"):
        depth_metrics(torch.ones(1, 2, 2), torch.ones(1, 2, 2), "medan")


def scene(frames: int = 3) -> tuple[dict[str, torch.Tensor], GroundTruth]:
    """Outputs that agree with their ground truth up to the scale of the depth."""
    rotation = Rotation.random(frames, random_state=0)
    translation = np.random.default_rng(0).normal(size=(frames, 3))
    pose_enc = np.concatenate([translation, rotation.as_quat(), np.full((frames, 2), 0.9)], axis=-1)
    extrinsics = np.concatenate([rotation.as_matrix(), translation[..., None]], axis=-1)
    _, depth = random_depths(3, frames)
    outputs = {"pose_enc": torch.from_numpy(pose_enc).float(), "depth": 2 * depth.nan_to_num(5.0)[..., None]}
    return outputs, GroundTruth(extrinsics=torch.from_numpy(extrinsics), depth=depth)


def test_a_perfect_scene_scores_perfectly():
    outputs, truth = scene()
    parts = evaluate(outputs, truth)
    assert parts["pose"]["auc_3"] == 1
    assert parts["pose"]["pairs"] == 3
    assert parts["depth"]["scale"] == pytest.approx(0.5)
    assert parts["depth"]["abs_rel"] == pytest.approx(0, abs=1e-12)


def test_parts_without_ground_truth_are_absent():
    outputs, truth = scene()
    assert evaluate(outputs, GroundTruth()) == {}
    assert evaluate(outputs, GroundTruth(depth=truth.depth)).keys() == {"depth"}
    assert evaluate(outputs, GroundTruth(extrinsics=truth.extrinsics)).keys() == {"pose"}


def test_an_unknown_alignment_is_refused_even_without_depth():
    with pytest.raises(ConfigError, match="mean"):
        evaluate({}, GroundTruth(), "mean")


def test_mean_leaves_out_undefined_scenes_and_keeps_failed_ones():
    good = {"depth": {"abs_rel": 0.2, "valid_pixels": 10, "alignment": "median"}}
    undefined = {"depth": {"abs_rel": math.nan, "valid_pixels": 0, "alignment": "median"}}
    poor = {"depth": {"abs_rel": 0.4, "valid_pixels": 30, "alignment": "median"}, "pose": {"auc_3": 0.5}}
    failed = {"depth": {"abs_rel": math.inf, "valid_pixels": 5, "alignment": "median"}}
    mean = mean_over_scenes([good, undefined, poor])
    assert mean["depth"] == {
        "abs_rel": pytest.approx(0.3),
        "valid_pixels": 40,
        "alignment": "median",
        "scenes": 2,
    }
    assert mean["pose"] == {"auc_3": 0.5, "scenes": 1}
    assert mean_over_scenes([good, failed])["depth"]["abs_rel"] == math.inf
    assert math.isnan(mean_over_scenes([undefined])["depth"]["abs_rel"])
    assert mean_over_scenes([undefined])["depth"]["scenes"] == 0
    assert mean_over_scenes([]) == {}


def test_mean_refuses_scenes_that_were_aligned_differently():
    scenes = [{"depth": {"alignment": alignment}} for alignment in ("median", "lstsq")]
    with pytest.raises(ValueError, match="alignment differs"):
        mean_over_scenes(scenes)
