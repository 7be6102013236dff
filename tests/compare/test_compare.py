"""One command measures all schemes, reports them and fills the folder to hand in; a second one measures nothing again."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from helpers.command import vggtq
from helpers.forked import printed, started
from helpers.runs import TINY
from vggtq import compare
from vggtq.compare.runs import Options
from vggtq.errors import ConfigError

REST = [word for word in TINY if not word.startswith("model=")]
QUICK = [*REST, "timing=off", "fresh_memory=false"]
MODEL = next(word for word in TINY if word.startswith("model="))


def test_variants_and_schemes_in_one_command_and_nothing_twice(tmp_path: Path) -> None:
    arguments = [MODEL, *QUICK, "schemes=[int4_group64,int8_dynamic]", "lang=zh", "out=结果"]
    done = vggtq(tmp_path, *arguments, module="vggtq.compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "INT4" in done.stdout
    handin = tmp_path / "结果" / "report" / "handin"
    assert "## 量化方案" in (handin / "1_design.md").read_text(encoding="utf-8")
    records = sorted((tmp_path / "结果" / "runs").glob("*/result.json"))
    assert len(records) == 2
    times = [path.stat().st_mtime_ns for path in records]
    assert vggtq(tmp_path, *arguments, module="vggtq.compare").returncode == 0
    assert [path.stat().st_mtime_ns for path in records] == times


def test_a_scheme_that_fails_is_named_and_the_others_are_reported(tmp_path: Path) -> None:
    done = vggtq(
        *(
            tmp_path,
            MODEL,
            *QUICK,
            "schemes=[int8_dynamic,gptq_w4a16]",
            "calibration.samples=0",
        ),
        module="vggtq.compare",
    )
    assert done.returncode == 1
    assert "calibration" in done.stdout + done.stderr


def test_a_signal_to_the_comparison_ends_the_run_too(tmp_path: Path) -> None:
    endless = ["timing.rounds=100000", "timing.references=[fp32]", "fresh_memory=false"]
    arguments = [MODEL, *REST, *endless, "schemes=[int8_dynamic]"]
    process = started(tmp_path, *arguments, module="vggtq.compare")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("comparison.png")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)  # the comparison alone, as a scheduler or `kill` does
        process.join(timeout=60)
    finally:
        process.kill()
    assert process.exitcode == 143, printed(tmp_path)
    (record,) = tmp_path.rglob("result.json")  # the run has written it before the comparison ended
    error = json.loads(record.read_text("utf-8"))["error"]
    assert error["message"] == "terminated by SIGTERM"


@pytest.mark.parametrize(
    "name", ["my photos", "照片 一", "Tom's", r"C:\photos\new", "back\\", r"odd\'s", "a=b,c{d}$"]
)
def test_paths_reach_the_runs_as_they_are(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (command,) = Options(
        images=str(folder), model=f"{name}.pt", out=name, schemes=["int8_dynamic"]
    ).commands()
    parsed = OverridesParser.create().parse_overrides(command[1:])
    values = {override.key_or_group: override.value() for override in parsed}
    assert values["dataset.path"] == str(folder)
    assert (values["model.source"], values["hydra.sweep.dir"]) == (f"{name}.pt", f"{name}/runs")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"schemes": ["int4_grup64"]}, "did you mean int4_group64"),
        ({"schemes": []}, "name at least one"),
        ({"images": "nowhere"}, "is not a folder"),
        ({"max_images": 3}, "goes with images=DIR"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Options(**arguments)


def test_photographs_and_checkpoints_become_options_of_the_runs(tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    options = Options(
        images=str(tmp_path), model="weights/model.safetensors", max_images=5, schemes=["fp32", "awq"]
    )
    first, second = options.commands()
    assert first[:2] == ["--multirun", "+variant=fp32"]
    assert second[:2] == ["--multirun", "scheme=awq"]
    for words in (first, second):
        assert {"model=vggt_1b", "model.source='weights/model.safetensors'"} < set(words)
        assert {"dataset=images", f"dataset.path='{tmp_path}'", "dataset.max_images=5"} < set(words)


def test_the_function_returns_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = compare(MODEL.partition("=")[2], schemes=["int8_dynamic"], overrides=QUICK)
    assert list(table["scheme"]) == ["int8_dynamic"]
    assert 0 < table["mean_relative_error"][0] < 0.1
    assert "vggtq.compare" in sys.modules
