"""The chart of accuracy against time, and what counts as FP32 in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.report_records import fp32, record, row_of, write
from vggtq.report.build import TIMES, build_report
from vggtq.report.charts.accuracy_time import AUC, MS, panels
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import is_reference


def reduced(label: str, speedup: float, error: float) -> dict[str, Any]:
    """FP32 with less attention: no weight is quantized, and outputs and time are others."""
    return record(label, bits=32, error=error, speedup=speedup)


def grid(frames: int) -> list[dict[str, Any]]:
    runs = [fp32(), reduced("FP32, keys 1/4", 1.5, 0.02), record("INT8", 8, 0.004, 1.4)]
    runs.append(record("INT4 simulated", 4, 0.01, 2.0, simulated=True))
    for run in runs:
        (scene,) = run["dataset"]["scenes"]
        scene |= {"frames": frames, "images_sha256": f"{frames:064x}"}
        run |= {"name": f"{run['name']}_{frames}", "config_hash": f"{run['config_hash'][:8]}{frames:04x}"}
    return runs


def test_a_panel_for_each_number_of_frames(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", [run for frames in (64, 4, 16) for run in grid(frames)])
    report = build_report([folder], tmp_path / "out")
    shown = panels(report.groups)
    assert [group.first("frames") for group in shown] == [4, 16, 64]
    pixels = np.asarray(Image.open(tmp_path / "out" / TIMES).convert("L"))
    for part in np.array_split(pixels, 3, axis=1):
        assert (part < 200).mean() > 0.005
    assert f"]({TIMES})" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_without_ground_truth_or_times_there_is_none_and_an_older_one_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_report([write(tmp_path / "one", grid(4))], out)
    assert (out / TIMES).exists()
    untold = [run | {"geometry": None} for run in grid(4)]
    build_report([write(tmp_path / "two", untold)], out)
    assert not (out / TIMES).exists()
    untimed = [record("INT8", 8, speedup=None), record("INT4", 4, speedup=None)]
    assert panels(group_rows([row_of(run) for run in untimed])) == []


def test_fp32_with_less_attention_is_no_reference_and_has_its_own_time() -> None:
    rows = [row_of(run) for run in grid(4)]
    group_rows(rows)
    by_label = {row["label"]: row for row in rows}
    whole, less = by_label["FP32"], by_label["FP32, keys 1/4"]
    assert is_reference(whole) and not is_reference(less)
    assert less[MS] == pytest.approx(whole[MS] / 1.5) and less[AUC] < whole[AUC]
