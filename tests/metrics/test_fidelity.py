"""Fidelity scores against scikit-image, scipy and numpy, and the cases in which a metric must not flatter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import softmax
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vggtq.metrics.fidelity import Fidelity
from vggtq.metrics.metric import FIDELITY, GRADES
from vggtq.metrics.table import metrics, named

LIMITS = {metric.key: metric.limits for metric in metrics(*FIDELITY) if metric.limits}


def grade(metric, value):
    return named(metric).grade(value)


ERRORS = ("mae", "mse", "rmse", "max_abs_error", "psnr", "cosine", "relative_error", "cross_entropy", "kl")
SHAPES = {
    "depth": (9, 11, 1),
    "depth_conf": (9, 11),
    "world_points": (9, 11, 3),
    "world_points_conf": (9, 11),
}


def model_outputs(seed: int, frames: int = 3) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    pose = np.concatenate([rng.normal(size=(frames, 7)), rng.uniform(0.5, 1.5, (frames, 2))], axis=-1)
    maps = {name: rng.gamma(2, size=(frames, *shape)) for name, shape in SHAPES.items()}
    return {k: torch.from_numpy(v).float() for k, v in {"pose_enc": pose, **maps}.items()}


def perturbed(outputs: dict[str, torch.Tensor], noise: float, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: v + noise * torch.randn(v.shape, generator=generator) for k, v in outputs.items()}


def fidelity(outputs, reference):
    scores = Fidelity()
    scores.update(outputs, reference)
    return scores.result()


def depth_scores(quantized: torch.Tensor, reference: torch.Tensor):
    return fidelity({"depth_conf": quantized}, {"depth_conf": reference})["depth_conf"]


def test_identical_outputs_score_perfectly():
    reference = model_outputs(0)
    results = fidelity({k: v.clone() for k, v in reference.items()}, reference)
    pose = results.pop("pose")
    for name, scores in results.items():
        assert scores["ssim"] == (None if name == "pose_enc" else 1)
        assert scores["cosine"] == 1
        assert scores["psnr"] == math.inf
        assert scores["identical"] is True
        assert scores["cross_entropy"] == scores["reference_entropy"] > 0
        assert all(scores[k] == 0 for k in ("mae", "mse", "rmse", "max_abs_error", "relative_error", "kl"))
        assert scores["non_finite"] == 0
        for metric in LIMITS:
            assert grade(metric, scores[metric]) == (None if scores[metric] is None else "excellent")
    assert all(value < 1e-12 for value in pose.values())


def test_errors_equal_numpy_and_scikit_image():
    reference = model_outputs(0)
    quantized = perturbed(reference, 0.1)
    for name, scores in fidelity(quantized, reference).items():
        if name in ("pose", "pose_enc"):
            continue
        q, r = (x[name].double().numpy() for x in (quantized, reference))
        assert scores["mae"] == pytest.approx(np.abs(q - r).mean())
        assert scores["mse"] == pytest.approx(np.mean((q - r) ** 2))
        assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((q - r) ** 2)))
        assert scores["max_abs_error"] == np.abs(q - r).max()
        assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(r, q, data_range=np.ptp(r)))
        assert scores["cosine"] == pytest.approx((q * r).sum() / np.linalg.norm(q) / np.linalg.norm(r))
        assert scores["relative_error"] == pytest.approx(np.linalg.norm(q - r) / np.linalg.norm(r))
        axis = -1 if r.ndim == 4 else None
        expected = [
            structural_similarity(a, b, data_range=np.ptp(a), channel_axis=axis)
            for a, b in zip(r, q, strict=True)
        ]
        assert scores["ssim"] == pytest.approx(np.mean(expected), rel=1e-12)
        assert scores["identical"] is False


def test_entropies_equal_scipy_over_the_pixels_of_each_frame_and_channel():
    reference = model_outputs(0)
    quantized = perturbed(reference, 0.3)
    for name, scores in fidelity(quantized, reference).items():
        if name in ("pose", "pose_enc"):
            continue
        p, q = (softmax(x[name].double().reshape(3, 99, -1).numpy(), axis=1) for x in (reference, quantized))
        assert scores["kl"] == pytest.approx(entropy(p, q, axis=1).mean())
        assert scores["reference_entropy"] == pytest.approx(entropy(p, axis=1).mean())
        assert scores["cross_entropy"] == pytest.approx(-(p * np.log(q)).sum(1).mean())


def test_entropies_of_a_pose_are_over_its_nine_numbers():
    reference = model_outputs(0)["pose_enc"]
    quantized = perturbed({"pose_enc": reference}, 0.01)["pose_enc"]
    scores = fidelity({"pose_enc": quantized}, {"pose_enc": reference})["pose_enc"]
    p, q = (softmax(x.double().numpy(), axis=-1) for x in (reference, quantized))
    assert scores["kl"] == pytest.approx(entropy(p, q, axis=-1).mean())


def test_softmax_of_large_values_does_not_overflow():
    reference = torch.rand(1, 8, 8) * 1e4
    scores = depth_scores(reference + torch.rand(1, 8, 8), reference)
    assert 0 <= scores["kl"] < math.inf
    assert 0 <= scores["reference_entropy"] < math.inf


def test_pieces_equal_the_whole():
    reference = model_outputs(0, frames=4)
    quantized = perturbed(reference, 0.1)
    pieces = Fidelity()
    for frames in (slice(0, 1), slice(1, 4)):
        pieces.update(*({k: v[frames] for k, v in x.items()} for x in (quantized, reference)))
    whole, streamed = fidelity(quantized, reference), pieces.result()
    pose, streamed_pose = whole.pop("pose"), streamed.pop("pose")
    assert streamed == whole
    for metric in (
        "rotation_deg_mean",
        "rotation_deg_max",
        "fov_deg_mean",
    ):  # directions need frames of one call
        assert streamed_pose[metric] == pytest.approx(pose[metric], rel=1e-12)


def test_peak_of_psnr_is_the_range_over_all_scenes():
    a, b = torch.zeros(1, 8, 8), torch.full((1, 8, 8), 10.0)
    scores = Fidelity()
    for reference in (a, b):
        scores.update({"depth_conf": reference + 0.1}, {"depth_conf": reference})
    assert scores.result()["depth_conf"]["psnr"] == pytest.approx(40, abs=1e-4)


@settings(max_examples=25)
@given(st.floats(0.5, 100), st.integers(0, 100))
def test_a_constant_added_to_the_output_makes_it_worse(offset, seed):
    reference = model_outputs(seed)["depth_conf"].double()
    quantized = reference + 0.01 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(seed))
    before, after = depth_scores(quantized, reference), depth_scores(quantized + offset, reference)
    assert after["psnr"] < before["psnr"]
    assert after["ssim"] < before["ssim"]
    assert after["relative_error"] > before["relative_error"]


@settings(max_examples=25)
@given(st.floats(-100, 100), st.integers(0, 100))
def test_a_constant_added_to_both_does_not_improve_psnr(offset, seed):
    reference = model_outputs(seed)["depth_conf"].double()
    quantized = perturbed({"x": reference}, 0.1, seed)["x"]
    shifted = depth_scores(quantized + offset, reference + offset)
    assert shifted["psnr"] == pytest.approx(depth_scores(quantized, reference)["psnr"], rel=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(1e-3, 1.0))
def test_symmetric_metrics_and_bounds(seed, noise):
    reference = model_outputs(seed, frames=1)
    quantized = perturbed(reference, noise, seed)
    there, back = fidelity(quantized, reference), fidelity(reference, quantized)
    for name in SHAPES:
        for metric in ("mae", "mse", "rmse", "max_abs_error", "cosine"):
            assert there[name][metric] == pytest.approx(back[name][metric])
        assert there[name]["kl"] >= 0
        assert there[name]["mae"] <= there[name]["rmse"] <= there[name]["max_abs_error"]
        assert -1 <= there[name]["cosine"] <= 1
    for metric, value in there["pose"].items():
        if not metric.startswith("translation"):
            assert value == pytest.approx(back["pose"][metric])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pose_enc", *SHAPES])
def test_one_broken_value_spoils_its_output_and_no_other(name, broken):
    reference = model_outputs(0)
    quantized = {k: v.clone() for k, v in reference.items()}
    quantized[name].view(-1)[13] = broken
    results = fidelity(quantized, reference)
    assert results[name]["non_finite"] == 1
    assert results[name]["identical"] is False
    assert all(math.isnan(results[name][metric]) for metric in ERRORS)
    assert name == "pose_enc" or math.isnan(results[name]["ssim"])
    assert results[name]["reference_entropy"] > 0
    assert all(results[other]["mae"] == 0 for other in results if other not in (name, "pose"))


def test_a_break_that_is_followed_by_good_frames_is_not_forgotten():
    reference = model_outputs(0)
    scores = Fidelity()
    scores.update({k: torch.full_like(v, math.nan) for k, v in reference.items()}, reference)
    scores.update(reference, reference)
    results = scores.result()
    assert all(math.isnan(value) for value in results.pop("pose").values())
    for result in results.values():
        assert all(math.isnan(result[metric]) for metric in ERRORS)
        assert all(grade(metric, result[metric]) in ("poor", None) for metric in LIMITS)


def test_a_reference_that_is_not_finite_gives_no_score():
    reference = torch.ones(1, 8, 8)
    reference[0, 0, 0] = math.inf
    scores = depth_scores(torch.ones(1, 8, 8), reference)
    assert all(math.isnan(scores[metric]) for metric in (*ERRORS, "ssim"))
    assert scores["non_finite"] == 0


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_constant_maps_are_perfect(value):
    scores = depth_scores(torch.full((2, 8, 8), value), torch.full((2, 8, 8), value))
    assert (scores["ssim"], scores["cosine"], scores["psnr"], scores["kl"]) == (1, 1, math.inf, 0)
    assert scores["relative_error"] == 0


def test_a_constant_reference_has_neither_peak_nor_ssim():
    scores = depth_scores(torch.rand(1, 8, 8), torch.zeros(1, 8, 8))
    assert all(math.isnan(scores[metric]) for metric in ("psnr", "ssim", "cosine", "relative_error"))
    assert scores["mae"] > 0


def test_ssim_does_not_apply_below_the_window():
    assert depth_scores(torch.rand(1, 6, 20), torch.rand(1, 6, 20))["ssim"] is None
    assert depth_scores(torch.rand(1, 7, 20), torch.rand(1, 7, 20))["ssim"] is not None


def test_outputs_of_the_track_head_are_no_maps():
    track = {"track": torch.rand(2, 8, 2), "vis": torch.rand(2, 8), "conf": torch.rand(2, 8)}
    for scores in fidelity(perturbed(track, 0.01), track).values():
        assert scores["ssim"] is None
        assert scores["kl"] > 0


def test_minus_q_is_the_same_rotation():
    reference = model_outputs(0)
    quantized = {k: v.clone() for k, v in reference.items()}
    quantized["pose_enc"][1, 3:7] *= -1
    results = fidelity(quantized, reference)
    assert results["pose_enc"]["mae"] == 0
    assert results["pose_enc"]["cosine"] == 1
    assert results["pose_enc"]["identical"] is False
    assert results["pose"]["rotation_deg_max"] < 1e-12


def test_pose_angles_equal_scipy():
    reference, quantized = model_outputs(0)["pose_enc"].double(), model_outputs(1)["pose_enc"].double()
    pose = fidelity({"pose_enc": quantized}, {"pose_enc": reference})["pose"]
    q, r = (Rotation.from_quat(x[:, 3:7].numpy()) for x in (quantized, reference))
    angles = np.degrees((q.inv() * r).magnitude())
    assert pose["rotation_deg_mean"] == pytest.approx(angles.mean())
    assert pose["rotation_deg_max"] == pytest.approx(angles.max())
    assert pose["fov_deg_mean"] == pytest.approx(
        np.degrees((quantized - reference)[:, 7:].abs().numpy()).mean()
    )
    directions = []
    for i in range(3):
        for j in range(i + 1, 3):
            a, b = (
                x[i, :3].numpy() - (rotation[i] * rotation[j].inv()).apply(x[j, :3].numpy())
                for x, rotation in ((quantized, q), (reference, r))
            )
            directions.append(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    assert pose["translation_deg_mean"] == pytest.approx(np.mean(directions))
    assert pose["translation_deg_max"] == pytest.approx(np.max(directions))


def test_opposite_directions_are_180_degrees_apart():
    reference = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 1, 1], [1.0, 2, 3, 0, 0, 0, 1, 1, 1]])
    quantized = reference.clone()
    quantized[1, :3] *= -1
    pose = fidelity({"pose_enc": quantized}, {"pose_enc": reference})["pose"]
    assert pose["translation_deg_mean"] == pytest.approx(180)


@pytest.mark.parametrize("frames", [1, 2])
def test_without_a_baseline_there_is_no_translation_direction(frames):
    reference = model_outputs(0)["pose_enc"][:1].expand(frames, 9)
    pose = fidelity({"pose_enc": reference + 0.1}, {"pose_enc": reference})["pose"]
    assert math.isnan(pose["translation_deg_mean"])
    assert math.isnan(pose["translation_deg_max"])
    assert pose["rotation_deg_mean"] > 0


def test_half_precision_outputs_are_compared_in_float64():
    reference = model_outputs(0)
    results = fidelity({k: v.half() for k, v in reference.items()}, reference)
    assert results["depth"]["identical"] is False
    assert 0 < results["depth"]["relative_error"] < 1e-3


def test_other_names_and_shapes_are_refused():
    reference = model_outputs(0)
    with pytest.raises(ValueError, match="differ in names"):
        fidelity({"depth": reference["depth"]}, reference)
    with pytest.raises(ValueError, match=r"depth: output \(3, 11, 9, 1\), reference \(3, 9, 11, 1\)"):
        fidelity({**reference, "depth": reference["depth"].mT.reshape(3, 11, 9, 1)}, reference)


def test_nothing_seen_gives_no_scores():
    assert Fidelity().result() == {}


@pytest.mark.parametrize("metric", LIMITS)
def test_limits_belong_to_the_better_grade(metric):
    assert [grade(metric, limit) for limit in LIMITS[metric]] == ["excellent", "good", "acceptable"]
    step = -1e-9 if metric in ("psnr", "cosine", "ssim") else 1e-9
    worse = [limit + step for limit in LIMITS[metric]]
    assert [grade(metric, limit) for limit in worse] == ["good", "acceptable", "poor"]


@pytest.mark.parametrize("metric", LIMITS)
def test_nan_never_wins_a_grade(metric):
    assert grade(metric, math.nan) == GRADES[-1] == "poor"
    assert grade(metric, None) is None


def test_metrics_without_limits_have_no_grade():
    assert grade("cross_entropy", 0.0) is None
