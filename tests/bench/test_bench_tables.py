"""The benchmark's tables, plots and commands: nothing is left out silently."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command import vggtq
from vggtq.bench import frames, quantizing, table
from vggtq.bench.plot import plot
from vggtq.machine.environment import environment

CPU = torch.device("cpu")


def made_up(section: str, case: str, name: str, ratio: float, **more: Any) -> dict[str, Any]:
    spread = {"median": ratio, "q25": 0.9 * ratio, "q75": 1.1 * ratio}
    row = {
        "section": section,
        "case": case,
        "name": name,
        "tool": "vggtq",
        "backend": "kernel",
        "simulated": False,
    }
    row |= {"resident_bytes": 25, "float32_bytes": 100, "relative_error": 0.01, "speedup": {"fp32": spread}}
    return row | {"tokens": 930} | more


def test_geometric_means_are_over_vggt_1b_s_linears_alone() -> None:
    rows = [
        made_up("kernel", "a", "X", 2.0),
        made_up("kernel", "b", "X", 8.0),
        made_up("kernel", "c", "X", 100.0, tokens=300),
        made_up("block", "d", "X", 100.0),
        made_up("kernel", "a", "Y", 3.0),
        {"section": "kernel", "case": "b", "name": "Y", "tool": "other", "tokens": 930, "skipped": "why"},
    ]
    means = table.geometric_means(rows)
    assert means == {"X": {"fp32": pytest.approx(math.sqrt(16))}}, "Y did not run everywhere"


def test_the_table_marks_what_is_simulated_and_shows_losers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [made_up("kernel", "a", "FP32", 1.0), made_up("kernel", "a", "slow", 0.25, simulated=True)]
    table.print_table(rows, environment(CPU, 0))
    shown = capsys.readouterr().out
    assert "0.25 (0.23 to 0.28) †" in shown and "1/4.0" in shown
    assert table.others([{"others_cpu_share": 0.1}, {"others_cpu_share": 0.3}]).startswith(
        "other processes had at most 30%"
    )
    text = table.markdown(rows)
    assert "| a | slow | 0.25 (0.23 to 0.28) † | – | 0.01 | 1/4.0 | kernel |" in text


def test_the_plot_shows_every_section(tmp_path: Path) -> None:
    rows = [
        made_up(section, f"{section} case", name, ratio)
        for section in ("kernel", "block", "model")
        for name, ratio in (("FP32", 1.0), ("fast", 2.0), ("slow", 0.5))
    ]
    plot(rows, environment(CPU, 0), tmp_path / "bench.png")
    pixels = np.asarray(Image.open(tmp_path / "bench.png").convert("RGB"))
    blue = (np.abs(pixels.astype(int) - [0x1F, 0x77, 0xB4]).sum(-1) < 30).sum()
    assert blue > 100
    plot(rows[:3], environment(CPU, 0), tmp_path / "one.png")
    assert np.asarray(Image.open(tmp_path / "one.png")).shape[0] < pixels.shape[0]


def test_frames_are_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CASES", (frames.Case("vggt_small", 28, (2,), predictions=3),))
    chosen = {kind: frames.KINDS[kind] for kind in ("FP32", "W8A8")}
    monkeypatch.setattr(frames, "KINDS", chosen)
    frames.frames(CPU, environment(CPU, 0), tmp_path, full=False)
    rows = json.loads((tmp_path / "frames.json").read_text())["rows"]
    assert [(row["frames"], row["kind"]) for row in rows] == [(2, kind) for kind in chosen]
    weights = 4 * 8_200_000
    assert all(
        row["rss_loaded_bytes"] - row["rss_before_load_bytes"] > 0.9 * weights
        for row in rows
        if row["kind"] == "FP32"
    )
    for row in rows:
        assert frames.memory_bytes(row) > 0 and row["warm_seconds"] > 0
    assert np.asarray(Image.open(tmp_path / "frames.png")).std() > 5
    assert not list(tmp_path.glob(".vggtq-*"))


def test_a_model_that_does_not_fit_is_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise frames.CannotMeasureError("the measuring process ended with status -9")

    monkeypatch.setattr(frames, "measure_in_process", killed)
    monkeypatch.setattr(frames, "CASES", (frames.Case("vggt_small", 28, (50,), predictions=3),))
    frames.frames(CPU, environment(CPU, 0), tmp_path, full=False)
    assert "status -9" in capsys.readouterr().out


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    done = vggtq(tmp_path, "kernel", module="vggtq.bench")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: sections=kernel is not one of kernels, blocks, models, frames, windows; did you mean kernels?\n"
    )


def test_recipes_are_timed_as_rows_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["scheme=auto_mixed", "calibration.samples=1", "calibration=rooms"]
    assert quantizing.main(options) == 0
    header, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    values = dict(zip(header, row, strict=True))
    assert values["scheme"] == "auto_mixed" and values["layers"] == "55"
    assert 0 < float(values["CPU, s"]) < 600
    assert float(values["peak memory, GiB"]) >= float(values["peak memory before, GiB"]) > 0


def test_a_recipe_that_does_not_exist_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert quantizing.main(["scheme=gptq_w4a15"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "gptq_w4a15" in error and "gptq_w4a16" in error
