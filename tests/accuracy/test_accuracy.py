"""The accuracy tables: intervals against direct resampling, verdicts on made-up records, a plan whose rows all compose."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.runs import recorded, tiny
from vggtq.accuracy.__main__ import main
from vggtq.accuracy.layers import inputs_of, layer_error
from vggtq.accuracy.layers import main as layers_main
from vggtq.accuracy.measures import (
    Measured,
    difference,
    error_ratio,
    estimate,
    recovered_auc,
    worst_geometry_change,
)
from vggtq.accuracy.plan import Contrast, Plan, Requirement, Row, jobs_of, read_plan
from vggtq.accuracy.plot import draw_lines
from vggtq.accuracy.results import line, told_apart, verdicts
from vggtq.accuracy.running import finished_record, run_missing
from vggtq.accuracy.tables import model_table, verdict_table, write_csv
from vggtq.config.names import plain
from vggtq.errors import ConfigError
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.records.plain import parsed
from vggtq.records.schema import Record

ROOMS = 40
WHOLE = read_plan()


def record(loss: float, mse: float, seed: int = 0) -> Record:
    """A run whose AUC@30 is `loss` below FP32's, give or take, and whose output MSE is about `mse`."""
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(100).uniform(0.2, 0.8, ROOMS)
    noise = random.normal(0, 0.02, ROOMS)
    scenes = [
        {
            "quantized": {"pose": {"auc_30": t - loss + n}, "depth": {"abs_rel": 0.1, "scale": 9.0}},
            "reference": {"pose": {"auc_30": t}, "depth": {"abs_rel": 0.1, "scale": 1.0}},
        }
        for t, n in zip(truth, noise, strict=True)
    ]
    reference = {"pose": {"auc_30": 0.5, "pairs": 6}, "depth": {"abs_rel": 0.1, "scale": 1.0}}
    outputs = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
    values = {
        "scheme": {"label": "INT4 group 64"},
        "environment": {"commit": "0123456789"},
        "seconds": {"quantize": 1.0},
        "size": {"stored_bytes": 2**20},
        "fidelity": {name: {"mse": mse, "relative_error": 0.01} for name in outputs}
        | {"pose": {"rotation_deg_mean": 0.5}},
        "fidelity_scenes": [{"mse": {"world_points": float(mse * random.uniform(0.5, 1.5))}} for _ in scenes],
        "geometry": {"reference": reference, "scenes": scenes},
    }
    return parsed(Record, values)


def measured(loss: float, mse: float, seeds: int = 3) -> Measured:
    return Measured([record(loss, mse, seed) for seed in range(seeds)])


def test_an_interval_is_that_of_resampling_seeds_and_rooms() -> None:
    random = np.random.default_rng(1)
    table = random.normal(0, 1, (3, 50)) + random.normal(0, 0.5, (3, 1)) + random.normal(0, 1, 50)
    found = estimate(lambda mean: mean, table)
    draws = [table[np.ix_(random.integers(0, 3, 3), random.integers(0, 50, 50))].mean() for _ in range(4000)]
    assert found.value == pytest.approx(table.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, (2.5, 97.5))), abs=0.06)


def test_rooms_without_a_value_are_left_out() -> None:
    table = np.array([[1.0, 2.0, math.nan, 3.0]])
    found = estimate(lambda mean: mean, table)
    assert found.value == 2.0 and 1 <= found.low < found.high <= 3
    assert math.isnan(estimate(lambda mean: mean, np.array([[1.0, math.inf]])).low)


def test_measures_find_what_the_records_were_made_with() -> None:
    nearest, better = measured(0.2, 1e-3, seeds=1), measured(0.05, 1e-4)
    ratio = error_ratio(better, nearest)
    assert ratio.low < 0.1 < ratio.high and ratio.high - ratio.low < 0.05
    assert difference(better, None, "pose.auc_30").mean == pytest.approx(-0.05, abs=0.01)
    share = recovered_auc(better, nearest)
    assert share.value == pytest.approx(0.75, abs=0.05) and share.low < 0.75 < share.high
    assert math.isnan(recovered_auc(better, measured(0.0, 1e-3)).value), "nothing was lost for sure"
    worst = worst_geometry_change(better)
    assert worst.note == "pose auc_30" and worst.value == pytest.approx(-0.05, abs=0.01)


def plan(**requirement: Any) -> Plan:
    rows = {"nearest": Row("scheme=int4_group"), "good": Row("scheme=mse", "nearest")}
    return Plan(["vggt_mini"], [0, 1, 2], rows, [Requirement("claim", **requirement)])


TABLE = {("nearest", "vggt_mini"): measured(0.2, 1e-3, 1), ("good", "vggt_mini"): measured(0.05, 1e-4)}


@pytest.mark.parametrize(
    ("requirement", "met", "certain"),
    [
        ({"rows": ["good"], "measure": "error_ratio", "at_most": 0.5}, True, True),
        ({"rows": ["good"], "measure": "error_ratio", "at_most": 0.05}, False, True),
        ({"rows": ["good"], "measure": "recovered_auc", "at_least": 0.6}, True, True),
        ({"rows": ["good", "nearest"], "measure": "pose_auc_30_change", "at_least": -0.1}, False, True),
        (
            {
                "rows": ["good", "nearest"],
                "measure": "pose_auc_30_change",
                "at_least": -0.1,
                "best_row": True,
            },
            True,
            True,
        ),
        ({"rows": ["good"], "measure": "geometry_change", "within": 0.0505}, True, False),
        ({"rows": ["nearest"], "measure": "error_ratio", "at_most": 1}, None, True),
        ({"rows": ["nearest"], "measure": "error_ratio", "at_most": 0.1, "against": "good"}, False, True),
    ],
)
def test_a_verdict_follows_from_its_bound(
    requirement: dict[str, Any], met: bool | None, certain: bool
) -> None:
    (found,) = verdicts(plan(**requirement), TABLE)
    assert (found.met, found.certain) == (met, certain)


def test_rows_are_told_apart_by_paired_tests_after_holms_correction() -> None:
    same = measured(0.2, 1e-3, 1)
    table = TABLE | {("same", "vggt_mini"): same}
    rows = {name: Row("scheme=mse") for name in ("nearest", "good", "same")}
    contrasts = [Contrast("nearest"), Contrast("good", "nearest"), Contrast("same", "nearest")]
    found = told_apart(Plan(["vggt_mini"], [0], rows, [], contrasts), table, "vggt_mini")
    assert [one.metric for one in found[:2]] == ["pose.auc_30"] * 2
    assert [one.apart for one in found] == [True, True, False]
    assert found[0].difference.mean == pytest.approx(-0.2, abs=0.01)
    assert found[1].difference.mean == pytest.approx(0.15, abs=0.02)
    # Only two of the rows' metrics were measured: what is not there takes no part in the correction.
    assert found[1].p >= found[1].difference.p * 2


def test_the_chart_has_a_panel_for_each_model(tmp_path: Path) -> None:
    claim = plan(rows=["good"], measure="error_ratio", at_most=0.5)
    lines = [line(claim, TABLE, row, "vggt_mini") for row in claim.rows]
    for models, height in ((["a"], 598), (["a", "b"], 1196)):
        draw_lines([replace(one, model=model) for model in models for one in lines], tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.height == height


def test_a_claim_about_rows_that_were_not_run_is_not_measured() -> None:
    claim = plan(rows=["good"], measure="pose_auc_30_change", at_least=-1)
    (found,) = verdicts(claim, {})
    assert found.met is None and "not measured" in verdict_table([found], {})


def test_tables_say_what_was_measured(tmp_path: Path) -> None:
    claim = plan(rows=["good"], measure="error_ratio", at_most=0.5)
    lines = [line(claim, TABLE, row, "vggt_mini") for row in claim.rows]
    text = model_table(lines)
    assert text.count("\n") == 3 and "-0.0504" in text and "0.10" in text
    write_csv(lines, tmp_path / "t.csv")
    header, first, second = (tmp_path / "t.csv").read_text().splitlines()
    assert header.count(",") == first.count(",") == second.count(",")
    assert {"error_ratio", "error_ratio_low", "recovered_auc_high"} <= set(header.split(","))


@pytest.mark.parametrize("name", WHOLE.rows)
def test_every_row_of_the_plan_composes_and_seeds_are_for_rows_with_data(name: str) -> None:
    seeds = WHOLE.rows[name].seeds[:2] or WHOLE.seeds[:2]  # two tell all of them from one
    rows = WHOLE.rows | {name: replace(WHOLE.rows[name], seeds=seeds)}
    jobs = jobs_of(Plan(WHOLE.models[:1], WHOLE.seeds, rows), name, [], Path("runs"))
    looks = jobs[0].config["scheme"]["rounding"]["method"] == "gptq"
    looks |= jobs[0].config["scheme"]["transform"]["scale"] in ("smooth", "awq")
    looks |= jobs[0].config["scheme"]["activations"]["mode"] == "static"
    looks |= bool(jobs[0].config["scheme"]["mixed"]["candidates"])
    assert len(jobs) == (len(seeds) if looks else 1)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert jobs[0].config["resume"] and jobs[0].config["timing"]["mode"] == "off"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rows": ["god"], "measure": "error_ratio", "at_most": 1},
            "god is not one of nearest, good; did you mean good",
        ),
        (
            {"rows": ["good"], "measure": "error_ratio", "at_most": 1, "against": "nearst"},
            "against=nearst is not one of .*did you mean nearest",
        ),
        ({"rows": ["good"], "measure": "error_rato", "at_most": 1}, "did you mean error_ratio"),
        ({"rows": ["good"], "measure": "error_ratio"}, "give one bound"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**change)


def test_wrong_options_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rows=w4_neerest"]) == 2
    assert "did you mean w4_nearest" in capsys.readouterr().err
    assert main(["--what"]) == 2 and main(["jobs=0"]) == 2 and main(["--help"]) == 0


def test_only_finished_runs_of_this_configuration_and_code_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain(tiny("scheme=int8_symmetric"))
    assert finished_record(tmp_path, config) is None
    assert recorded(tmp_path, "scheme=int8_symmetric")["status"] == "ok"
    assert finished_record(tmp_path, config) is not None
    assert finished_record(tmp_path, plain(tiny("scheme=int8_asymmetric"))) is None
    monkeypatch.setattr("vggtq.accuracy.running.run_code", lambda: "other")
    assert finished_record(tmp_path, config) is None
    monkeypatch.undo()
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "failed"'))
    assert finished_record(tmp_path, config) is None


def test_an_interruption_ends_the_sweep_that_runs_and_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hears nothing of the signal itself, as after `kill` of the accuracy command."""
    sweeps: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def endless(command: list[str], **named: Any) -> "subprocess.Popen[bytes]":
        assert command[1:3] == ["-m", "vggtq.run"]
        sweeps.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **named))
        return sweeps[-1]

    def interrupted(_: object) -> None:
        while not (tmp_path / "logs").exists() or not sweeps:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.Popen", endless)
    monkeypatch.setattr("vggtq.accuracy.running.as_completed", interrupted)
    monkeypatch.setattr("vggtq.machine.children.TO_END_S", 0.1)
    jobs = {name: jobs_of(WHOLE, name, [], tmp_path) for name in ("w8a8_nearest", "w4_nearest")}
    with pytest.raises(KeyboardInterrupt):
        run_missing(jobs, lambda name: [name], tmp_path, 1)
    assert [sweep.returncode for sweep in sweeps] == [-signal.SIGTERM]


def test_a_layers_error_is_that_of_its_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    x = torch.randn(200, 5, 16)
    seen = inputs_of(model, ["0", "2"], [x])
    assert torch.equal(seen["0"], x.flatten(0, 1)) and seen["2"].shape == (1000, 32)
    assert not any(module._forward_pre_hooks for module in model)
    linear = model[2].requires_grad_(False)
    exact = seen["2"] @ linear.weight.T
    scale = linear.weight.abs().amax(1, keepdim=True) / 7
    rounded = seen["2"] @ (torch.round(linear.weight / scale) * scale).T
    expected = float((rounded - exact).square().sum() / exact.square().sum())
    found = layer_error(linear, Scheme(weights=Weights(bits=4)), seen["2"], seen["2"])
    assert found == pytest.approx(expected, rel=1e-3)
    assert layers_main(["rows=nothing"]) == 2 and layers_main(["what"]) == 2
