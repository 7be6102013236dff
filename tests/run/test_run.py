"""Whole runs on the small model: what a record holds, and that it can be trusted."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.runs import job, photos, recorded, recorded_of, tiny  # noqa: F401
from vggtq import load
from vggtq.config.compose import options
from vggtq.records.predictions import read_predictions
from vggtq.records.schema import KEYS
from vggtq.run import comparison
from vggtq.run.experiment import run

OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")


# The schemes' own amounts of data and steps are for models that are to be used.
BRIEFLY = ["calibration.samples=2", "calibration.frames=2"]
SHORT = {"qat": ["scheme.finetune.steps=2"], "qat_w3": ["scheme.finetune.steps=2"]}


@pytest.mark.parametrize("scheme", options("scheme"))
def test_every_scheme_runs_from_end_to_end(scheme: str, tmp_path: Path) -> None:
    save = () if scheme == "fp32" else ("save=true", "save_predictions=true")
    asked = job(f"scheme={scheme}", *BRIEFLY, *SHORT.get(scheme, []), *save)
    record = recorded_of(asked, tmp_path)
    assert record["status"] == "ok", record["error"]
    # Only plugins have metrics to describe, and torch is no other engine.
    assert set(record) == set(KEYS) - {"metrics", "engine"}
    assert set(record["fidelity"]) == {*OUTPUTS, "pose"}
    assert record["model"]["weights"] == "random"
    size = record["size"]
    if scheme == "fp32":
        assert size["stored_bytes"] == size["float32_bytes"] == 4 * size["parameters"]
        assert all(record["fidelity"][output]["identical"] for output in OUTPUTS)
        assert not record["layers"]
    else:
        assert 1.2 < size["compression_vs_fp32"] < 8
        assert sum(layer["stored_bytes"] for layer in record["layers"]) < size["stored_bytes"]
        assert 0 < record["fidelity"]["depth"]["relative_error"] < 0.2
        assert record["backends"] and sum(record["backends"].values()) == len(record["layers"])
        again = load(tmp_path / record["artifact"]["file"])
        assert again.header.label == record["scheme"]["label"]
        sizes = {layer["name"]: layer["stored_bytes"] for layer in record["layers"]}
        assert {layer.name: layer.stored_bytes for layer in again.quantization.layers} == sizes
        (scene,) = asked.config.dataset.scenes()
        (kept,) = read_predictions(tmp_path / record["predictions"]["file"])
        # Fine-tuned weights differ in the last bit of some sums.
        torch.testing.assert_close(again.predict(scene.images), kept.quantized, rtol=0, atol=1e-6)
    assert record["simulated"] == ("reference" in record["backends"])
    assert record["geometry"]["quantized"]["depth"]["valid_pixels"] > 0
    assert record["geometry"]["reference"]["pose"]["pairs"] == 1


def test_fp32_scores_perfectly(tmp_path: Path) -> None:
    fidelity = recorded(tmp_path, "scheme=fp32")["fidelity"]
    for output in OUTPUTS:
        metrics = fidelity[output]
        assert (metrics["mae"], metrics["kl"], metrics["cosine"], metrics["psnr"]) == (0, 0, 1, None)
        assert set(metrics["grades"].values()) == {"excellent"}
    assert fidelity["depth"]["ssim"] == 1
    assert fidelity["pose"]["rotation_deg_max"] == 0


def test_fewer_bits_lose_more(tmp_path: Path) -> None:
    errors = []
    for bits in (8, 4, 2):
        record = recorded(tmp_path / str(bits), f"bits={bits}")
        errors.append(np.mean([record["fidelity"][output]["relative_error"] for output in OUTPUTS]))
    assert errors == sorted(errors)
    assert errors[-1] > 10 * errors[0]


def test_two_runs_give_identical_fidelity(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", "scheme=int8_dynamic")
    torch.rand(7)  # the state of the global generator must not matter
    second = recorded(tmp_path / "b", "scheme=int8_dynamic")
    for key in ("fidelity", "geometry", "config_hash", "model", "dataset", "layers", "size"):
        assert first[key] == second[key], key


def test_the_record_agrees_with_an_independent_computation(tmp_path: Path) -> None:
    """The same comparison by hand: weights rounded in float64, the network run once more, plain NumPy."""
    from vggtq.config.validate import validated

    record = recorded(tmp_path, "scheme=int8_symmetric")
    config = validated(tiny("scheme=int8_symmetric"))
    model = config.model.load(torch.device("cpu"))
    scene = next(iter(config.dataset.scenes()))
    reference = model.predict(scene.images)
    rounded = copy.deepcopy(model.module)
    for layer in record["layers"]:
        weight = rounded.get_submodule(layer["name"]).weight
        scale = weight.double().abs().amax(1, keepdim=True) / 127
        weight.data = (torch.round(weight.double() / scale) * scale).float()
    outputs = model.predict(scene.images, rounded)
    for name in OUTPUTS:
        difference = np.abs(outputs[name].double().numpy() - reference[name].double().numpy())
        assert record["fidelity"][name]["mae"] == pytest.approx(difference.mean(), rel=0.02), name
    kept = {entry["name"] for entry in record["kept"]}
    assert {"camera_head.pose_branch.fc2", "depth_head.scratch.output_conv2.2"} <= kept


def test_folders_of_images_run_without_ground_truth(tmp_path: Path, photos: Path) -> None:  # noqa: F811
    record = recorded(tmp_path, "dataset=images", f"dataset.path={photos}", "dataset.max_images=2")
    assert record["status"] == "ok", record["error"]
    assert record["geometry"] is None
    scene = record["dataset"]["scenes"][0]
    assert (scene["frames"], scene["size"]) == (2, [42, 56])
    assert [file["path"] for file in scene["files"]] == ["0.png", "1.png"]


def test_a_single_image_runs(tmp_path: Path, photos: Path) -> None:  # noqa: F811
    record = recorded(
        tmp_path, "dataset=images", f"dataset.path={photos / '1.png'}", "timing=paired", "timing.rounds=2"
    )
    assert record["status"] == "ok", record["error"]
    assert record["fidelity"]["pose"]["translation_deg_mean"] is None


def test_latency_keeps_raw_pairs_and_the_picture_is_drawn(tmp_path: Path) -> None:
    overrides = ("timing=paired", "timing.rounds=4", "timing.references=[fp32,bf16]", "picture_frames=2")
    record = recorded(tmp_path, *overrides)
    for reference in ("fp32", "bf16"):
        entry = record["latency"]["references"][reference]
        pairs = zip(entry["reference_ms"], entry["quantized_ms"], entry["ratios"], strict=True)
        assert all(math.isclose(r / q, ratio) for r, q, ratio in pairs)
        assert len(entry["ratios"]) == 4
        assert entry["speedup"] == pytest.approx(np.median(entry["ratios"]))
        low, high = np.percentile(entry["ratios"], [25, 75])
        assert (entry["speedup_q25"], entry["speedup_q75"]) == (pytest.approx(low), pytest.approx(high))
    assert record["memory"]["quantized"] is None
    assert record["memory"]["reason"] == "fresh_memory=false"
    pixels = np.asarray(Image.open(tmp_path / record["picture"]).convert("RGB"))
    assert pixels.std() > 20


def test_auto_skips_bf16_where_the_hardware_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "has_bf16", lambda device: False)
    references = recorded(tmp_path, "timing=paired", "timing.rounds=1")["latency"]["references"]
    assert "does not multiply bfloat16" in references["bf16"]["skipped"]
    assert references["fp32"]["speedup"] > 0


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["dataset=images", "dataset.path=/nowhere"], "DataError", "/nowhere"),
        (["model.source=/nowhere/model.safetensors"], "WeightsError", "/nowhere"),
        (["scheme=mixed_precision", "scheme.mixed.sensitive=[nothing]"], "QuantizationError", "matches none"),
        (["scheme=int4_group", "granularity=per_tensor"], "ConfigError", "group_size=128"),
        (["model.architecture.aggregator.embed_dim=33"], "ConfigError", "33"),
    ],
    ids=["no images", "no weights", "no layer", "impossible", "architecture"],
)
def test_failures_are_recorded_with_their_reason(
    overrides: list[str], kind: str, message: str, tmp_path: Path
) -> None:
    record = recorded(tmp_path, *overrides)
    assert record["status"] == "failed"
    assert record["error"]["type"] == kind
    assert message in record["error"]["message"]
    assert "\n" not in record["error"]["message"]
    assert record["config"]["scheme"]["name"]
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_failed_rerun_keeps_what_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = recorded(tmp_path, "picture_frames=1")
    assert (tmp_path / "comparison.png").exists()
    monkeypatch.setattr("vggtq.quant.walk.stored.stored_bytes", lambda *_: 1 / 0)
    assert recorded(tmp_path, "picture_frames=1")["status"] == "failed"
    assert json.loads((tmp_path / "result.previous.json").read_text()) == first
    assert not (tmp_path / "comparison.png").exists()
    assert recorded(tmp_path)["status"] == "failed"
    assert json.loads((tmp_path / "result.previous.json").read_text()) == first


def test_threads_of_one_run_do_not_leak_into_the_next(tmp_path: Path) -> None:
    default = recorded(tmp_path / "a")["environment"]["threads"]
    assert recorded(tmp_path / "b", f"device.threads={default + 1}")["environment"]["threads"] == default + 1
    assert recorded(tmp_path / "c")["environment"]["threads"] == default


def test_bugs_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggtq.quant.walk.stored.stored_bytes", lambda *_: 1 / 0)
    error = recorded(tmp_path)["error"]
    assert error["type"] == "ZeroDivisionError"
    assert "describe_size" in error["traceback"]


def test_an_interruption_is_recorded_and_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vggtq.prepare.finetune.quantize_", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(job(), tmp_path, "")
    assert json.loads((tmp_path / "result.json").read_text())["error"]["message"] == "interrupted by the user"


def test_cuda_without_cuda_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    record = recorded(tmp_path, "device=cuda")
    assert "device=cuda: " in record["error"]["message"]
    assert "device=cpu" in record["error"]["message"]


def test_nothing_in_a_record_names_the_machine(tmp_path: Path) -> None:
    text = json.dumps(recorded(tmp_path))
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
