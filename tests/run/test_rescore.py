"""Scores from kept predictions: the same numbers as the run, and with other options those of a fresh run with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.runs import job, recorded
from vggtq.data.scene import GroundTruth, Scene
from vggtq.errors import DataError
from vggtq.records.predictions import FILE_NAME, Predictions, read_predictions
from vggtq.rescore import main, rescore
from vggtq.sweep.resume import earlier

KEPT = ("scheme=int4_group", "save_predictions=true")


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, Any]:
    return recorded(tmp_path / "run", *KEPT)


def load(folder: Path, name: str = "result.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_unchanged_code_gives_the_same_record(tmp_path: Path, kept: dict[str, Any]) -> None:
    assert kept["status"] == "ok", kept["error"]
    assert kept["geometry"]["quantized"]["depth"]["valid_pixels"] > 0
    file = tmp_path / "run" / kept["predictions"]["file"]
    assert kept["predictions"]["file_bytes"] == file.stat().st_size
    assert main([str(tmp_path)]) == 0
    again = load(tmp_path / "run")
    assert again["rescored"]["changes"] == {} and again["rescored"]["commit"] == kept["environment"]["commit"]
    assert again | {"rescored": None} == kept
    assert load(tmp_path / "run", "result.previous.json") == kept
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("result.json", "result.previous.json", FILE_NAME, "preview.safetensors")
    }


@pytest.mark.parametrize("change", ["depth_alignment=lstsq", "points_icp=true"])
def test_another_option_gives_what_a_fresh_run_gives(
    tmp_path: Path, kept: dict[str, Any], change: str
) -> None:
    fresh = recorded(tmp_path / "fresh", *KEPT, change)
    assert main([str(tmp_path / "run"), change]) == 0
    again = load(tmp_path / "run")
    for key in ("fidelity", "geometry", "config", "config_hash"):
        assert again[key] == fresh[key], key
    assert again["geometry"] != kept["geometry"]
    assert again["command"].endswith(change) and again["rescored"]["earlier"]["vggtq"]
    assert main([str(tmp_path / "run"), change]) == 0
    assert load(tmp_path / "run")["command"] == again["command"]


def test_records_of_earlier_versions_are_scored(tmp_path: Path, kept: dict[str, Any]) -> None:
    path = tmp_path / "run" / "result.json"
    config = {key: value for key, value in kept["config"].items() if key != "cache"}
    config |= {"baseline_cache": "outputs/cache/baseline", "sensitivity_cache": None, "finetune_cache": None}
    command = "python -m vggtq.run scheme=int4_group baseline_cache=null save_predictions=true"
    path.write_text(json.dumps(kept | {"config": config, "command": command}))
    assert main([str(tmp_path), "depth_alignment=lstsq"]) == 0
    again = load(tmp_path / "run")
    assert again["status"] == "ok" and again["geometry"] != kept["geometry"]
    assert again["config_hash"] == job(*KEPT, "depth_alignment=lstsq").hash
    assert again["command"] == f"python -m vggtq.run {' '.join(KEPT)} depth_alignment=lstsq"


def test_what_cannot_be_scored_is_told_in_one_line(
    tmp_path: Path, kept: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / FILE_NAME
    content = path.read_bytes()
    for broken in (content[:-100], b"nothing"):
        path.write_bytes(broken)
        assert main([str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "is damaged" in line and "save_predictions=true" in line
    path.unlink()
    assert main([str(tmp_path)]) == 1 and "is gone" in capsys.readouterr().err
    assert load(tmp_path / "run") == kept
    for arguments, words in ((["nowhere"], "does not exist"), (["depth_alignment=mean"], "lstsq")):
        assert main(arguments) == 1 and words in capsys.readouterr().err


def test_runs_without_predictions_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "plain")
    assert main([str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "1 without predictions" in told.out and "save_predictions=true" in told.err
    with pytest.raises(DataError, match="kept its predictions; make some"):
        rescore([tmp_path], {})


def test_a_later_run_without_predictions_removes_the_earlier_ones(
    tmp_path: Path, kept: dict[str, Any]
) -> None:
    assert recorded(tmp_path / "run", "scheme=int4_group")["predictions"] is None
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_predictions_that_are_gone_are_made_again(tmp_path: Path, kept: dict[str, Any]) -> None:
    assert earlier(job(*KEPT), tmp_path / "run") is not None
    (tmp_path / "run" / FILE_NAME).unlink()
    assert earlier(job(*KEPT), tmp_path / "run") is None


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    depth = torch.full((2, 14, 14), torch.nan)
    truths = [GroundTruth(torch.rand(2, 3, 4).double(), None, depth, True), GroundTruth()]
    written, predictions = [], Predictions(tmp_path)
    for i, truth in enumerate(truths):
        scene = Scene(f"scene {i}", torch.rand(2, 3, 14, 14), truth=truth)
        pair = [{"depth": torch.randn(2, 14, 14, 1), "pose_enc": torch.randn(2, 9)} for _ in range(2)]
        predictions.add(scene, *pair)
        written.append((scene, *pair))
    predictions.write()
    found = list(read_predictions(tmp_path / FILE_NAME))
    for (scene, reference, quantized), read in zip(written, found, strict=True):
        assert (read.name, read.size_hw, read.truth.metric) == (scene.name, (14, 14), scene.truth.metric)
        for name in reference:
            assert torch.equal(read.reference[name], reference[name])
            assert torch.equal(read.quantized[name], quantized[name])
        for name in ("extrinsics", "intrinsics", "depth"):
            a, b = getattr(read.truth, name), getattr(scene.truth, name)
            assert (a is None) == (b is None)
            assert a is None or (a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
