"""Published tables: every row composes, verdicts and averages on made-up records, and the whole command on small files."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.co3d_files import write_category
from helpers.nrgbd_files import write_room
from helpers.posed_photographs import grey, write_pose_files
from helpers.runs import TINY, recorded_of
from vggtq.config.compose import compose
from vggtq.config.names import config_hash, plain, run_name
from vggtq.config.validate import Job, validated
from vggtq.errors import ConfigError
from vggtq.metrics.interval import Interval
from vggtq.records.plain import parsed
from vggtq.records.schema import Record
from vggtq.replicate.__main__ import main
from vggtq.replicate.paper import Paper, PublishedRow, deviations, missing, overrides, papers, read_paper
from vggtq.replicate.results import TOO_FEW, Compared, compared, table
from vggtq.rescore import main as rescore_main

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
            hashes.add(config_hash(plain(cfg)))
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


def test_keys_of_a_data_set_or_model_that_is_replaced_do_not_count() -> None:
    rows = {"float": PublishedRow("P", "model=pi3 model.source=yyfz233/Pi3 dataset.stride=200 scheme=fp32")}
    table = paper(data="dataset=nrgbd dataset.require_depth=true", run="points.crop=224", rows=rows)
    own = overrides(table, rows["float"], ["dataset=objects", "model=vggt_mini", "model.seed=1"])
    changed = {"dataset=objects", "model=vggt_mini", "model.seed=1", "points.crop=224", "scheme=fp32"}
    assert set(own) == {*changed, "+experiment=replicate"}
    kept = overrides(table, rows["float"], ["model.source=FILE"])
    assert {"model=pi3", "model.source=FILE", "dataset.stride=200", "dataset.require_depth=true"} < set(kept)
    assert deviations(table, ["calibration.dataset.root=there"]) == []


def test_a_row_of_ours_stands_beside_its_own_float_row() -> None:
    rows = {
        "float": PublishedRow("FP16", "scheme=fp16", {"pose.auc_30": 0.5}),
        "other": PublishedRow("Other", "model=pi3", {"pose.auc_30": 0.6}, baseline="other"),
        "ours": PublishedRow("Other W8A8", "model=pi3 scheme=int8_dynamic", baseline="other"),
    }
    scores = {"float": 0.5, "other": 0.6, "ours": 0.55}
    records = {name: record({str(i): value + 0.01 * i for i in range(4)}) for name, value in scores.items()}
    lines = compared(paper(rows=rows), records)
    assert [(line.row, line.metric) for line in lines] == [
        ("float", "pose.auc_30"),
        ("other", "pose.auc_30"),
        ("ours", "pose.auc_30"),
        ("ours", "change of pose.auc_30"),
    ]
    change = lines[-1].measured
    assert change is not None and change.mean == pytest.approx(-0.05)
    assert [line.published for line in lines[2:]] == [None, None]
    assert lines[-1].verdict == "not published" and "| Other W8A8 | pose.auc_30 | – | 0.565" in table(lines)
    with pytest.raises(ConfigError, match=r"rows\.float\.baseline=flaot .*did you mean float"):
        paper(rows={"float": PublishedRow("FP16", "scheme=fp16", baseline="flaot")})


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


def write_seven_scenes(root: Path, sequences: int, frames: int) -> None:
    for number in range(1, sequences + 1):
        posed = grey(root / f"chess/seq-{number:02d}", frames, names="frame-{:06d}.color.png")
        write_pose_files(posed)
        levels = np.random.default_rng(number).integers(1500, 2500, (42, 56)).astype(np.uint16)
        for name in posed.names:
            Image.fromarray(levels).save(posed.folder / name.replace("color", "depth.proj"))
    (root / "chess/TestSplit.txt").write_text("\n".join(f"sequence{i + 1}" for i in range(sequences)))


def write_rooms(root: Path, sequences: int, frames: int) -> None:
    for name in ("kitchen", "staircase", "whiteroom")[:sequences]:
        write_room(root, name, frames)


@pytest.fixture
def rows_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds in which a process of a row's own imports torch."""

    def measure(command: list[str], log: Path, _: object) -> float:
        cfg = compose([word for word in command if not word.startswith(("--multirun", "hydra."))])
        recorded_of(Job(cfg), log.parents[1] / "runs" / run_name(_root_=cfg))
        return 0.0

    monkeypatch.setattr("vggtq.accuracy.running._sweep", measure)


@pytest.mark.usefixtures("rows_in_this_process")
@pytest.mark.parametrize(
    ("name", "write", "row", "scene"),
    [
        ("quantvggt_7scenes", write_seven_scenes, "w4a4_quarot", "chess"),
        ("quantvggt_nrgbd", write_rooms, "w4a4_quarot", "kitchen+staircase+whiteroom"),
        ("pi3_nrgbd", write_rooms, "vggt_w8a8_sparse", "kitchen+staircase+whiteroom"),
    ],
)
def test_points_are_measured_on_files_of_the_data_set(
    name: str, write: Callable[..., None], row: str, scene: str, tmp_path: Path
) -> None:
    """Layouts of 7-Scenes and Neural RGB-D, the paper's own stride, and a small network in place of VGGT-1B.

    CO3D, on which other rows are calibrated, is not there.
    """
    write(tmp_path / "data", 3, 6)
    words = [
        f"paper={name}",
        f"rows={row}",
        f"out={tmp_path / 'out'}",
        f"dataset.root={tmp_path / 'data'}",
        *(word for word in TINY if not word.startswith("dataset")),
        f"scene={scene}",
        "cache=null",
        "dataset.check_cameras=false",
    ]
    assert main(words) == 0
    with (tmp_path / "out" / name / "replicate.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    base = read_paper(name).float_row(row)
    assert {line["row"] for line in lines} == {row, base}
    assert len(lines) == 3 * 6, "six metrics of the float row, and six with their changes of the other"
    assert all(line["scenes"] == "3" and line["measured"] for line in lines)
    ours = [line for line in lines if line["row"] == row and name == "pi3_nrgbd"]
    assert all(line["published"] == "" for line in ours)
    assert all(line["published"] for line in lines if line not in ours)
    runs = tmp_path / "out" / name / "runs"
    assert len(list(runs.glob("*/predictions.safetensors"))) == 2
    result = next(runs.glob("*/result.json"))
    measured = json.loads(result.read_text())
    taken = [[Path(file["path"]).stem for file in entry["files"]] for entry in measured["dataset"]["scenes"]]
    first_and_middle = ["frame-000000.color", "frame-000003.color"] if scene == "chess" else ["img0", "img3"]
    assert taken == [first_and_middle] * 3
    assert measured["geometry"]["quantized"]["points"]["icp"]
    assert rescore_main([str(runs)]) == 0
    again = json.loads(result.read_text())
    assert again["geometry"] == measured["geometry"] and again["rescored"]


@pytest.mark.usefixtures("rows_in_this_process")
def test_points_are_measured_by_the_embedded_model(tmp_path: Path) -> None:
    write_rooms(tmp_path / "data", 3, 4)
    words = [
        "paper=quantvggt_nrgbd",
        "rows=fp16",
        f"out={tmp_path / 'out'}",
        f"dataset.root={tmp_path / 'data'}",
        "model=vggt_mini",
        "scene=kitchen+staircase+whiteroom",
        "dataset.stride=2",
        "cache=null",
        "dataset.check_cameras=false",
    ]
    assert main(words) == 0
    text = (tmp_path / "out/quantvggt_nrgbd/replicate.md").read_text("utf-8")
    assert "points.normal_consistency_median" in text and "model=vggt_mini" in text
    assert "The paper does not state the alignment" in text


def test_depth_that_is_missing_ends_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_seven_scenes(tmp_path / "data", 1, 4)
    for path in (tmp_path / "data").rglob("*.depth.proj.png"):
        path.unlink()
    small = [word for word in TINY if not word.startswith("dataset")]
    words = ["paper=pi3_7scenes", "rows=vggt_sparse", f"out={tmp_path / 'out'}", "scene=chess", "cache=null"]
    assert main([*words, f"dataset.root={tmp_path / 'data'}", *small]) == 1
    logs = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.log"))
    assert "2 of 2 images have no depth" in logs + "".join(capfd.readouterr())
