"""The table of metrics: every entry says what others need, a new one is measured and shown without another line of code."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from helpers.report_records import fp32, read, record, row_of
from vggtq.data.scene import GroundTruth
from vggtq.errors import ConfigError
from vggtq.metrics import table
from vggtq.metrics.fidelity import Fidelity
from vggtq.metrics.ground_truth import evaluate
from vggtq.metrics.metric import HIGHER, LOWER, NEITHER, Metric, from_description
from vggtq.metrics.scores import Scores
from vggtq.metrics.table import BUILT_IN, adopt, metrics, named, register_metric
from vggtq.report.build import summary_of
from vggtq.report.rows.columns import COLUMNS, columns, shown
from vggtq.report.words.texts import translator
from vggtq.report.words.wording import column_heading, metric_cell

NOTHING = GroundTruth()


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(table, "_metrics", dict(table._metrics))
    monkeypatch.setattr(table, "_adopted", set())


def median_error(quantized: torch.Tensor, reference: torch.Tensor) -> float:
    return (quantized - reference).abs().median().item()


def within(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted - truth) < 0.1))


def outputs(depth: torch.Tensor) -> dict[str, torch.Tensor]:
    pose = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 1, 1]]).repeat(len(depth), 1)
    return {"pose_enc": pose, "depth": depth[..., None]}


@pytest.mark.parametrize(
    "metric", [m for m in BUILT_IN if m.best is not None and m.scope != "cameras"], ids=lambda m: m.name
)
def test_the_best_value_is_on_the_better_side_and_graded_excellent(metric: Metric) -> None:
    assert metric.direction in (HIGHER, LOWER)
    assert metric.grade(metric.best) == ("excellent" if metric.limits else None)
    assert metric.direction * metric.best >= metric.direction * min(metric.worst, 1e9)
    if metric.limits:
        ordered = sorted(metric.limits, reverse=metric.direction == HIGHER)
        assert list(metric.limits) == ordered


def test_every_shown_metric_has_labels_in_both_languages_and_a_column() -> None:
    for metric in BUILT_IN:
        if metric.shown:
            assert all(metric.label), metric.name
        assert set(metric.columns) <= set(COLUMNS), metric.name
        assert metric.meaning


def test_an_entry_that_cannot_work_is_refused() -> None:
    for wrong in (
        {"key": "a b"},
        {"scope": "deep"},
        {"shown": ("everywhere",)},
        {"direction": 2},
        {"outputs": ("dept",)},
    ):
        with pytest.raises(ConfigError):
            Metric(**({"key": "mine", "scope": "frame"} | wrong))
    with pytest.raises(ConfigError, match="there already"):
        register_metric(Metric("mae", "output", lambda sums: 0.0))
    with pytest.raises(ConfigError, match="give the function"):
        register_metric(Metric("mine", "frame"))
    with pytest.raises(ConfigError, match="measured by vggtq itself"):
        register_metric(Metric("mine", "size", lambda: 0.0))


def test_a_metric_of_frames_is_the_mean_over_frames_of_the_outputs_it_names() -> None:
    register_metric(Metric("median_error", "frame", median_error, outputs=("depth",)))
    reference = torch.rand(3, 8, 8)
    quantized = reference + torch.tensor([0.1, 0.2, 0.6])[:, None, None]
    scores = Fidelity()
    scores.update(outputs(quantized), outputs(reference))
    result = scores.result()
    assert result["depth"]["median_error"] == pytest.approx(0.3, rel=1e-6)
    assert "median_error" not in result["pose_enc"]


def test_a_metric_of_depth_gets_aligned_pixels_and_its_change_over_scenes() -> None:
    register_metric(Metric("within", "depth", within, direction=HIGHER))
    truth = torch.full((1, 8, 8), 2.0)
    scores = Scores("median", False)
    for broken in (torch.full((1, 8, 8), 4.0), torch.full((1, 8, 8), math.nan)):
        scores.add("scene", outputs(broken), outputs(truth / 2), GroundTruth(depth=truth))
    result = scores.result()
    assert result.geometry is not None
    assert [scene.quantized["depth"]["within"] for scene in result.geometry.scenes] == [1.0, 0.0]
    assert result.geometry.change["depth"]["within"].mean == -0.5
    assert [entry["key"] for entry in result.metrics] == ["within"]


def test_a_metric_of_scenes_is_measured_where_its_ground_truth_is_known() -> None:
    def darkest(found: dict[str, torch.Tensor], truth: GroundTruth) -> float:
        assert truth.depth is not None
        return (found["depth"][..., 0] - truth.depth).min().item()

    register_metric(Metric("darkest", "scene", darkest, outputs=("depth",), truth=("depth",)))
    depth = torch.ones(1, 8, 8)
    assert evaluate(outputs(depth), GroundTruth(depth=depth))["scene"] == {"darkest": 0.0}
    assert "scene" not in evaluate(outputs(depth), NOTHING)


def with_mine(value: float, **values: Any) -> dict[str, Any]:
    mine = Metric("within", "depth", within, "share within 0.1", HIGHER, ("share {within}", "范围内比例"), decimals=2,
                  shown=("table", "terminal"), **values)  # fmt: skip
    found = record()
    found["geometry"] = {side: {"depth": {"within": value}} for side in ("quantized", "reference")}
    found["geometry"]["change"] = {
        "depth": {"within": {"mean": 0.0004, "low": -0.001, "high": 0.002, "scenes": 3, "p": 0.4}}
    }
    found["metrics"] = [mine.described()]
    json.dumps(found["metrics"], allow_nan=False)
    return found


def test_a_record_tells_reports_what_they_need_of_a_metric() -> None:
    run = with_mine(0.75)
    summary = summary_of([read(run), read(fp32())], "zh")
    assert "范围内比例" in [str(column.header) for column in summary.columns]
    metric, column = next((m, c) for m, c in shown("table", [row_of(run)]) if m.key == "within")
    t = translator("en")
    assert column_heading(metric, column, t) == "Share {within} (FP32)"
    assert metric_cell(metric, column, row_of(run), t) == "0.75 (0.75) +0.000 [−0.001, +0.002]"
    assert columns()["geometry.quantized.depth.within"] == "against ground truth: share within 0.1"
    assert not any(m.key == "within" for m, _ in shown("table", [row_of(fp32())]))  # nobody has a value


def test_newer_descriptions_count_and_none_replaces_what_is_built_in() -> None:
    adopt(with_mine(0.5)["metrics"])
    adopt(with_mine(0.5, unit="%")["metrics"])
    assert named("depth.within").unit == "%"
    stolen = named("depth.abs_rel").described() | {"direction": HIGHER}
    adopt([stolen, {"key": "no scope"}, {"scope": "depth"}])
    assert named("depth.abs_rel").direction == LOWER
    assert len(metrics()) == len(BUILT_IN) + 1


def test_a_description_is_an_entry_without_its_function() -> None:
    for metric in BUILT_IN:
        described = json.loads(json.dumps(metric.described() | {"best": None}))
        again = from_description(described)
        assert (again.name, again.direction, again.label, again.limits) == (
            metric.name, metric.direction, metric.label, metric.limits,
        )  # fmt: skip
        assert again.function is None


def test_the_entropy_of_the_reference_is_neither_good_nor_bad() -> None:
    assert named("reference_entropy").direction == NEITHER
