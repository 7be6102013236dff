"""Sweeps: what is skipped, what fails while others go on, and two of them in one folder."""

import json
import re
from pathlib import Path

import pytest

from helpers.forked import finished, printed, started
from helpers.runs import TINY
from vggtq.sweep.journal import Entry, Journal

FAST = [*TINY, "timing=off", "picture_frames=0", "fresh_memory=false", "preview_scenes=0"]
FAILS = ["granularity=per_tensor,per_channel", "group_size=64,null"]  # the first of four, and the third


def records(folder: Path) -> dict[str, dict]:
    paths = sorted(folder.glob("outputs/runs/*/result.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def test_a_second_start_measures_nothing_and_shows_the_same_table(tmp_path: Path) -> None:
    sweep = [*FAST, "--multirun", "bits=4,8"]
    assert finished(tmp_path, *sweep)[0] == 0
    first = records(tmp_path)
    status, output = finished(tmp_path, *sweep)
    assert status == 0, output
    assert len(re.findall(r"^skipped: .* already measured on .*; resume=never", output, re.MULTILINE)) == 2
    assert "2 of 2 runs finished, 2 of them measured earlier" in output
    assert "INT4 per-channel" in output and "INT8 per-channel" in output
    assert records(tmp_path) == first
    status, output = finished(tmp_path, *sweep, "resume=never")
    assert "2 of 2 runs finished;" in output
    again = records(tmp_path)
    assert all(again[name]["started"] > first[name]["started"] for name in first)
    assert not list(tmp_path.glob("outputs/runs/.sweep-*"))


def test_a_single_run_answers_from_its_record(tmp_path: Path) -> None:
    assert finished(tmp_path, *FAST)[0] == 0
    first = records(tmp_path)
    status, output = finished(tmp_path, *FAST)
    assert status == 0
    assert "already measured on" in output and "resume=never" in output
    assert "INT8 per-channel symmetric" in output, "the table is shown again"
    assert records(tmp_path) == first
    status, output = finished(tmp_path, *FAST, "resume=nevr")
    assert (status, "resume=nevr is not one of true, failed, never" in output) == (1, True)
    assert records(tmp_path) == first, "a slip of the pen costs no record"


def test_failures_show_while_the_sweep_goes_on(tmp_path: Path) -> None:
    status, output = finished(tmp_path, *FAST, "--multirun", *FAILS)
    assert status == 1
    told = output.index("job 0 failed: group_size=64 with granularity=per_tensor")
    assert told < output.index("#1 :"), "before the next job starts"
    assert "2 of 4 runs finished" in output
    status, output = finished(tmp_path, *FAST, "--multirun", *FAILS, "resume=failed")
    assert status == 1
    assert "2 of 4 runs finished, 2 of them measured earlier" in output


def test_fail_fast_ends_the_sweep(tmp_path: Path) -> None:
    status, output = finished(tmp_path, *FAST, "--multirun", *FAILS, "fail_fast=true")
    assert status == 1
    assert len(records(tmp_path)) == 1
    assert "0 of 1 runs finished" in output and "fail_fast=true" in output
    assert not list(tmp_path.glob("outputs/runs/.sweep-*"))


def test_two_sweeps_in_one_folder_share_the_work(tmp_path: Path) -> None:
    sweep = [*FAST, "--multirun", "bits=3,4,5"]
    both = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        both.append(started(tmp_path / name, *sweep, f"hydra.sweep.dir={tmp_path}/outputs/runs"))
    for process in both:
        process.join(timeout=300)
        assert process.exitcode == 0
    outputs = [printed(tmp_path / name) for name in "ab"]
    assert sum(output.count("layers quantized") for output in outputs) == 3, "each run is measured once"
    assert sum(output.count("skipped: ") for output in outputs) == 3
    assert all("3 of 3 runs finished" in output for output in outputs)
    assert len(records(tmp_path)) == 3


def test_equal_configurations_are_measured_once(tmp_path: Path) -> None:
    status, output = finished(tmp_path, *FAST, "--multirun", "bits=8", "seed=0,0")
    assert status == 0
    assert output.count("layers quantized") == 1
    assert "2 jobs had only 1 different configurations" in output


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    status, output = finished(tmp_path, *FAST, "--multirun", "bits=4,8")
    assert status == 1
    assert re.fullmatch(r"error: .*outputs.*hydra.sweep.dir=DIR\n", output)


def test_a_dead_sweep_s_journal_is_removed_and_a_living_one_s_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VGGTQ_SWEEP", raising=False)
    living = Journal.start(tmp_path)
    dead = tmp_path / ".sweep-dead"
    dead.mkdir()
    (dead / "0.ok.json").touch()
    other = Journal.start(tmp_path)
    assert living.folder.is_dir() and other.folder.is_dir() and not dead.exists()
    other.enter(Entry(1, "failed", str(tmp_path), "why"))
    assert [entry.message for entry in other.entries()] == ["why"]
    assert other.entries("failed") and not other.entries("ok") and not living.entries()
    for journal in (living, other):
        journal.end()
    assert not list(tmp_path.glob(".sweep-*"))
