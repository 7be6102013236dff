"""What is measured already is not measured again, and what has changed since is."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.runs import job, photos, recorded  # noqa: F401
from vggtq.config.compose import compose, options
from vggtq.config.names import config_hash, plain
from vggtq.config.validate import validated
from vggtq.machine import source_code
from vggtq.records import inputs
from vggtq.records.plain import plain as jsonable
from vggtq.sweep.resume import earlier

DATASETS = {"images": ["dataset.path=DIR"], "eth3d": ["scene=courtyard"]}


def changed(folder: Path, **values: Any) -> None:
    """Another environment in the record than that of this process."""
    record = json.loads((folder / "result.json").read_text())
    record["environment"] |= values
    (folder / "result.json").write_text(json.dumps(record))


def test_a_record_answers_the_same_question(tmp_path: Path) -> None:
    assert earlier(job(), tmp_path) is None
    record = recorded(tmp_path)
    found = earlier(job(), tmp_path)
    assert found is not None and jsonable(found.record) == record and not found.differences
    assert found.measured == f"{record['started'][:10]} {record['started'][11:16]} UTC"
    assert earlier(job("resume=never"), tmp_path) is None
    assert earlier(job("bits=4"), tmp_path) is None
    assert earlier(job("cache=elsewhere"), tmp_path) is not None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"code": "0" * 12}, "other code"),
        ({"vggtq": "0.0.1"}, "other code"),
        ({"cpu": "Another CPU"}, "other hardware"),
        ({"device": "cuda"}, "other hardware"),
        ({"versions": {}}, "another torch"),
    ],
)
def test_what_was_measured_otherwise_is_measured_again(
    values: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded(tmp_path)
    changed(tmp_path, **values)
    with caplog.at_level(logging.INFO):
        assert earlier(job(), tmp_path) is None
    assert reason in caplog.text and "measuring again" in caplog.text
    found = earlier(job("resume=failed"), tmp_path)
    assert found is not None and reason in found.differences


def test_threads_matter_where_seconds_are_measured(tmp_path: Path) -> None:
    timed = ("timing=paired", "timing.rounds=1")
    for folder, overrides in (("a", ()), ("b", timed)):
        threads = recorded(tmp_path / folder, *overrides)["environment"]["threads"]
        assert earlier(job(*overrides), tmp_path / folder) is not None
        changed(tmp_path / folder, threads=threads + 1)
    assert earlier(job(), tmp_path / "a") is not None
    assert earlier(job(*timed), tmp_path / "b") is None


def test_failed_and_missing_records_answer_nothing(tmp_path: Path) -> None:
    for mode in ("true", "failed", "never"):
        assert recorded(tmp_path, "model.source=/nowhere.safetensors")["status"] == "failed"
        assert earlier(job("model.source=/nowhere.safetensors", f"resume={mode}"), tmp_path) is None
    (tmp_path / "result.json").write_text('{"schema_version": 1, "stat')
    assert earlier(job(), tmp_path) is None


def test_a_picture_that_is_gone_is_drawn_again(tmp_path: Path) -> None:
    recorded(tmp_path, "picture_frames=1")
    (tmp_path / "comparison.png").unlink()
    assert earlier(job("picture_frames=1"), tmp_path) is None


def test_images_count_by_content(tmp_path: Path, photos: Path) -> None:  # noqa: F811
    overrides = ("dataset=images", f"dataset.path={photos}", "dataset.max_images=2")
    assert recorded(tmp_path / "run", *overrides)["inputs"]["files"] == 2
    (photos / "0.png").touch()  # another time, the same content
    assert earlier(job(*overrides), tmp_path / "run") is not None
    (photos / "2.png").unlink()  # not among the first two
    assert earlier(job(*overrides), tmp_path / "run") is not None
    stat = (photos / "0.png").stat()
    Image.fromarray(np.zeros((60, 80, 3), dtype=np.uint8)).save(photos / "0.png")
    assert (photos / "0.png").stat().st_size != stat.st_size
    assert earlier(job(*overrides), tmp_path / "run") is None
    (photos / "0.png").unlink()
    assert earlier(job(*overrides), tmp_path / "run") is None


def test_calibration_images_are_inputs(tmp_path: Path, photos: Path) -> None:  # noqa: F811
    overrides = ("dataset=images", f"dataset.path={photos}", "dataset.max_images=1", "scheme=gptq_w4a16")
    overrides += ("calibration=dataset", "calibration.frames=1")
    assert recorded(tmp_path / "run", *overrides)["inputs"]["files"] == 3
    assert earlier(job(*overrides), tmp_path / "run") is not None
    Image.fromarray(np.zeros((60, 80, 3), dtype=np.uint8)).save(photos / "2.png")
    assert earlier(job(*overrides), tmp_path / "run") is None


def test_weights_count_by_content(tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    shutil.copy(source_code.PACKAGE / "models/weights/vggt_mini.safetensors", source)
    config = validated(compose([f"model.source={source}"]))
    described = inputs.describe_inputs(config)
    assert described is not None and (described.files, described.bytes) == (1, source.stat().st_size)
    assert inputs.same_inputs(config, described)
    with source.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert not inputs.same_inputs(config, described)
    assert not inputs.same_inputs(config, None)


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_data_set_tells_its_files(dataset: str) -> None:
    config = validated(compose([f"dataset={dataset}", *DATASETS.get(dataset, ())]))
    assert callable(config.dataset.inputs)


@pytest.mark.parametrize("key", ["resume=never", "fail_fast=true"])
def test_what_is_done_about_other_runs_is_no_part_of_the_experiment(key: str) -> None:
    assert config_hash(plain(compose([key]))) == config_hash(plain(compose()))
