"""Published tables: every row composes, verdicts and averages on made-up records, and the whole command on small files."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.co3d_files import write_category
from helpers.runs import TINY
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError
from vggtq.metrics.interval import Interval
from vggtq.records.plain import parsed
from vggtq.records.schema import Record
from vggtq.replicate.__main__ import main
from vggtq.replicate.paper import Paper, PublishedRow, deviations, missing, overrides, papers, read_paper
from vggtq.replicate.results import TOO_FEW, Compared, compared, table

NAMES = papers()


def record(scores: dict[str, float]) -> Record:
    """By scene."""
    scenes = [
        {"scene": name, "quantized": {"pose": {"auc_30": value}}, "reference": {"pose": {"auc_30": value}}}
        for name, value in scores.items()
    ]
    geometry = {"quantized": {}, "reference": {}, "change": {}, "scenes": scenes}
    return parsed(Record, {"geometry": geometry})


def paper(**changes: Any) -> Paper:
    rows = {
        "float": PublishedRow("FP16", "scheme=fp16", {"pose.auc_30": 0.5}),
        "low": PublishedRow("W4", "scheme=int4_group", {"pose.auc_30": 0.4}, {"pose.auc_30": 0.9}),
        "theirs": PublishedRow("Ours", None, {"pose.auc_30": 0.45}),
    }
    return Paper(
        **{
            "title": "T",
            "source": "S",
            "protocol": "P",
            "data": "",
            "run": "",
            "baseline": "float",
            "rows": rows,
        }
        | changes
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_every_table_composes(name: str) -> None:
    table = read_paper(name)
    assert table.source.startswith("https://") and table.rows[table.baseline].run
    hashes = set()
    for row in table.rows.values():
        if row.run is not None:
            cfg = compose(overrides(table, row, ["model.source=weights.safetensors"]))
            validated(cfg)
            assert cfg.save_predictions and cfg.timing.mode == "off"
            hashes.add(str(cfg.scheme))
    assert len(hashes) == sum(row.run is not None for row in table.rows.values()), (
        "two rows are the same recipe"
    )


def test_values_lie_within_what_a_metric_can_be() -> None:
    for name in NAMES:
        for row in read_paper(name).rows.values():
            assert all(0 < value < 1 for value in (*row.values.values(), *row.kept.values()))


def test_later_overrides_count_and_deviations_are_told() -> None:
    table = paper(
        run="model=vggt_1b frames=10", needs={"model.source": "the weights", "dataset.root": "the data"}
    )
    command = overrides(table, table.rows["float"], ["frames=2", "model=vggt_mini", "dataset.root=there"])
    assert [o for o in command if o.startswith(("frames", "model"))] == ["model=vggt_mini", "frames=2"]
    other = overrides(paper(data="dataset=co3d scene=seen"), table.rows["float"], ["dataset=objects"])
    assert "dataset=objects" in other and not any(o.startswith("scene") for o in other)
    assert deviations(
        table, ["frames=2", "dataset.root=there", "model.source=x", "device=cpu", "device.threads=1"]
    ) == ["frames=2"]
    assert missing(table, ["dataset.root=there"]) == {"model.source": "the weights"}
    assert missing(table, ["dataset=objects", "model=vggt_mini"]) == {}


def test_categories_count_alike_whatever_their_size() -> None:
    scores = {f"apple/{i}": 0.2 + 0.01 * i for i in range(5)} | {"vase/0": 0.8, "vase/1": 0.9}
    records = {"float": record(scores), "low": record({name: value - 0.05 for name, value in scores.items()})}
    (first, *_) = compared(paper(), records)
    assert first.measured is not None and first.measured.mean == pytest.approx(sum(scores.values()) / 7)
    lines = compared(paper(average="categories"), records)
    by = {(line.row, line.metric): line for line in lines}
    value = by["float", "pose.auc_30"].measured
    assert value is not None and value.mean == pytest.approx((0.22 + 0.85) / 2) and value.scenes == 7
    change = by["low", "change of pose.auc_30"]
    assert change.published == pytest.approx(-0.1) and change.measured is not None
    assert change.measured.mean == pytest.approx(-0.05)
    kept = by["low", "kept of pose.auc_30"].measured
    assert kept is not None and kept.mean == pytest.approx(1 - 0.05 / 0.535)
    assert by["theirs", "pose.auc_30"].verdict == "not measured"
    assert "| – | – | – | not measured |" in table(lines) and "not measured" not in table(lines, judged=False)


@pytest.mark.parametrize(
    ("low", "high", "scenes", "least", "verdict"),
    [
        (0.4, 0.6, 9, False, "agrees"),
        (0.51, 0.6, 9, False, "higher"),
        (0.1, 0.49, 9, False, "lower"),
        (None, None, 2, False, TOO_FEW),
        (0.51, 0.6, 9, True, "reached"),
        (0.1, 0.2, 9, True, "missed"),
        (0.4, 0.6, 9, True, "not certain"),
    ],
)
def test_verdicts(low: float | None, high: float | None, scenes: int, least: bool, verdict: str) -> None:
    mean = math.nan if low is None or high is None else (low + high) / 2
    assert Compared("r", "R", "pose.auc_30", 0.5, Interval(mean, low, high, scenes), least).verdict == verdict


def test_what_is_asked_wrongly_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (["paper=quantvgt"], "did you mean quantvggt"),
        (["paper=quantvggt", "rows=w4a4_neerest"], "did you mean w4a4_nearest"),
        (["paper=fgq", "rows=w4a4_fgq"], "this method does not exist here"),
        (["paper=ggml"], "model.source= (the checkpoint"),
        (["paper=quantvggt", "--fast"], "--fast"),
    ):
        assert main(words) == 2
        assert text in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"baseline=flot is not one of .*did you mean float"):
        paper(baseline="flot")


def test_a_table_is_measured_on_files_of_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CO3Dv2's layout, the paper's own command, and a network that predicts in milliseconds in place of VGGT-1B."""
    for category in ("apple", "vase"):
        write_category(tmp_path / "data", category)
    small = [word for word in TINY if not word.startswith("dataset")]
    words = [
        "paper=quantvggt",
        "rows=w8a8_nearest",
        f"out={tmp_path / 'out'}",
        f"dataset.root={tmp_path / 'data'}",
    ]
    words += [
        *small,
        "scene=apple+vase",
        "frames=2",
        "cache=null",
        "calibration=objects",
        "dataset.check_cameras=false",
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert (
        "Not the paper's protocol: model=vggt_small" in printed
        and "dataset.root" not in printed.split("**")[1]
    )
    assert TOO_FEW not in printed and "The 41 categories" in printed, "a verdict needs the paper's protocol"
    with (tmp_path / "out/quantvggt/replicate.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {line["row"] for line in lines} == {"fp16", "w8a8_nearest"}
    assert all(line["scenes"] == "2" and line["measured"] for line in lines)
    runs = tmp_path / "out/quantvggt/runs"
    assert len(list(runs.glob("*/predictions.safetensors"))) == 2
    assert main(words) == 0 and "2 runs are done, 0 to do" in capsys.readouterr().out
