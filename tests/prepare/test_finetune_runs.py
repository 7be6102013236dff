"""Runs that fine-tune: their views and settings, interruptions, the cache, records and files."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.finetuned import RECIPE, TINY, Noise, calibrate, net, tuned
from helpers.runs import recorded
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, DataError, QuantizationError
from vggtq.files.cache import TensorCache
from vggtq.prepare.finetune import Views
from vggtq.quant.finetune import trainer
from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.trainer import Checkpoint
from vggtq.quant.walk.quantize import quantize_


@pytest.mark.parametrize("fail_at", [1, 37])
def test_a_stopped_training_ends_with_the_same_numbers(
    tmp_path: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", 0.0)
    expected, whole = tuned()
    identity = {"test": fail_at}
    with pytest.raises(KeyboardInterrupt):
        tuned(data=Noise(fail_at), checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    resumed, progress = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    assert progress.resumed == 1
    assert (progress.losses, progress.errors) == (whole.losses, whole.errors)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    again, known = tuned(data=Noise(fail_at=0), checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    assert known == progress, "an ended training is not repeated"
    assert torch.equal(again(Noise.made(3, 10)), resumed(Noise.made(3, 10)))
    _, other = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), {"test": "other"}))
    assert other.resumed == 0


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Checkpoint(TensorCache(tmp_path), {})
    tuned(checkpoint=checkpoint)
    assert checkpoint.path is not None
    content = bytearray(checkpoint.path.read_bytes())
    content[-5] ^= 1
    checkpoint.path.write_bytes(content)
    _, progress = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), {}))
    assert progress.resumed == 0 and progress.step == 60
    assert "does not match its digest" in caplog.text


def test_a_folder_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    teacher = net()
    checkpoint = Checkpoint(TensorCache(tmp_path / "file" / "folder"), {})
    scheme = replace(RECIPE, finetune=replace(TINY, steps=2))
    result, progress = finetune_(
        copy.deepcopy(teacher), teacher, scheme, Noise(), calibrate=calibrate, checkpoint=checkpoint
    )
    assert progress.step == 2
    assert "cache=null" in result.notes[0]


def test_views_show_every_scene_once_and_keep_the_last_for_validation() -> None:
    scenes = [torch.full((3, 3, 2, 2), float(i)) + torch.arange(3).view(3, 1, 1, 1) / 10 for i in range(9)]
    views = Views(scenes, 0.125, seed=0)
    assert [float(v.mean().round()) for v in views.validation] == [8]
    seen = torch.cat([torch.cat(views.batch(step, 2)) for step in range(4)])
    assert sorted(seen[:, 0, 0, 0, 0].floor().tolist()) == list(range(8))
    assert torch.equal(torch.cat(views.batch(3, 2)), torch.cat(views.batch(3, 2)))
    assert len({tuple(views.batch(s, 2)[0][0, :, 0, 0, 0].frac().tolist()) for s in range(20)}) > 2
    single = Views([torch.rand(16, 3, 2, 2)], 0.25, seed=0)
    assert [len(v[0]) for v in single.validation] == [4]
    assert single.batch(0, 4)[0].shape == (1, 12, 3, 2, 2)
    mixed = Views([torch.rand(2, 3, 2, 2), torch.rand(2, 3, 4, 2), torch.rand(2, 3, 2, 2)], 0.1, 0)
    assert sorted(len(group) for group in mixed.batch(0, 2)) == [1, 1]
    with pytest.raises(DataError, match="there is one"):
        Views([torch.rand(1, 3, 2, 2)], 0.1, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheme.finetune.steps=-1"], "steps=-1: use 0 or more"),
        (["scheme.finetune.batch=0"], "batch=0: use at least 1"),
        (["scheme.finetune.learning_rate=-1"], "learning_rate=-1.0: use 0 or more"),
        (
            [f"scheme.finetune.{part}learning_rate=0" for part in ("", "step_", "branch_", "rest_")],
            "are all 0, so that nothing learns",
        ),
        (["scheme.finetune.validation=0"], "validation=0.0: use a share"),
        (["scheme.layers.types=[Linear,Conv2d]"], "quantized Conv2d cannot be trained"),
    ],
)
def test_impossible_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose(["scheme=qat", *overrides]))


def test_float_weights_have_nothing_to_learn() -> None:
    with pytest.raises(ConfigError, match="only integer weights have step sizes"):
        validated(compose(["scheme=fp16", "scheme.finetune.steps=5"]))
    with pytest.raises(QuantizationError, match="use finetune_"):
        quantize_(net(), RECIPE, calibrate=calibrate)


SMALL = ["scheme=qat", "calibration.samples=3", "scheme.finetune.steps=2", "scheme.finetune.batch=1"]


def test_a_run_is_recorded_and_repeated_from_the_cache(tmp_path: Path) -> None:
    cache = f"cache={tmp_path / 'cache'}"
    record = recorded(tmp_path / "a", *SMALL, cache, "save=true")
    assert record["status"] == "ok", record["error"]
    entry = record["finetune"]
    assert (entry["step"], entry["planned_steps"], entry["ended"]) == (2, 2, "all steps are done")
    assert (entry["scenes"], entry["validation_scenes"], entry["cached"]) == (2, 1, False)
    assert len(entry["losses"]) == 2 and [step for step, _ in entry["errors"]] == [0, 2]
    assert "QAT" in record["scheme"]["label"]
    again = recorded(tmp_path / "b", *SMALL, cache, "save=true")
    assert again["finetune"] == entry | {"cached": True}
    assert (
        record["calibration"]["cached"]
        == again["calibration"]["computed"]
        == 0
        < again["calibration"]["cached"]
    )
    assert again["artifact"]["sha256"] == record["artifact"]["sha256"]
    assert again["fidelity"] == record["fidelity"]
    loaded = artifact.load(tmp_path / "a" / "model.safetensors")
    assert loaded.header.scheme.finetune.steps == 2


def test_a_static_range_that_was_learned_is_in_the_file(tmp_path: Path) -> None:
    static = [
        "scheme.activations.mode=static",
        "scheme.activations.bits=8",
        "scheme.activations.clip=1",
        "save=true",
    ]
    record = recorded(tmp_path, *SMALL, *static)
    assert record["status"] == "ok", record["error"]
    loaded = artifact.load(tmp_path / "model.safetensors")
    ranges = {layer.name: list(layer.input_range or ()) for layer in loaded.quantization.layers}
    assert ranges == {layer["name"]: layer["input_range"] for layer in record["layers"]}
    assert all(low < high for low, high in ranges.values())
