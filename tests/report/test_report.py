"""Records in, files out: nothing undefined, simulated or incomparable may win, and no name may break a table."""

import csv
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from helpers.report_records import (
    change,
    failed,
    fp32,
    many,
    read,
    record,
    refused,
    row_of,
    with_scenes,
    write,
)
from vggtq.errors import ConfigError, DataError
from vggtq.metrics.interval import Interval, p_of_at_most, paired_interval
from vggtq.network.outputs import OUTPUTS
from vggtq.report import COLUMNS, build_report, summary_of
from vggtq.report.__main__ import main
from vggtq.report.build import make_report
from vggtq.report.charts.pareto import families
from vggtq.report.charts.sheet import draw
from vggtq.report.documents.tables import escape, groups_table
from vggtq.report.documents.text import wrap
from vggtq.report.page.data import page_data
from vggtq.report.rows.collection import Collection, collect
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import (
    LEAST_AUC,
    TOLERANCE,
    Choice,
    balanced_score,
    pareto_front,
    recommend,
    speed_verdict,
)
from vggtq.report.rows.row import frame_of, known_quartiles
from vggtq.report.rows.sources import source_of
from vggtq.report.rows.verdicts import DECIDING, loss_of, losses
from vggtq.report.words.texts import TEXTS, translator
from vggtq.report.words.wording import answer, beside, explain, group_notes, interval

ROOT = Path(__file__).parents[2]


def choices(*records: dict) -> dict[str, Choice]:
    (group,) = group_rows([row_of(made) for made in records])
    return {choice.need: choice for choice in recommend(group.rows)}


def winners(*records: dict) -> dict[str, str | None]:
    return {need: choice.row and choice.row["label"] for need, choice in choices(*records).items()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report over ok, failed, duplicate, foreign and corrupt records of two groups, with hostile names."""
    folder = tmp_path_factory.mktemp("outputs")
    hostile = record("a|b <img> $x_1$ [red]\n`c`", 4, 0.03, 1.1)
    stale = fp32(started="2026-11-01T10:00:00+00:00")
    gpu = record("INT8 GPU", environment__device="cuda", environment__gpu="H200")
    write(folder, [fp32(), record(), stale, hostile, failed(message="bad | value\nwith <b>"), gpu])
    for name, content in {
        "corrupt": "{",
        "foreign": '{"accuracy": 1}',
        "list": "[]",
        "future": '{"schema_version": 99, "status": "ok"}',
    }.items():
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(content)
    (folder / "binary").mkdir()
    (folder / "binary" / "result.json").write_bytes(b"\xff\xfe\x00")
    out = folder / "report"
    write(out, [record("from an old report")])
    build_report([folder], out)
    return folder, out


def strict(path: Path) -> dict:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_what_is_not_a_record_is_listed_with_its_reason(mixed: tuple[Path, Path]) -> None:
    results = strict(mixed[1] / "comprehensive_results.json")
    reasons = {Path(item["path"]).parent.name: item["reason"] for item in results["unreadable"]}
    assert reasons.keys() == {"corrupt", "foreign", "list", "future", "binary"}
    assert reasons["corrupt"] == "not valid JSON (line 1)" and "99 is newer than 2" in reasons["future"]


def test_overview_counts_runs_and_superseded_ones_and_skips_the_report_itself(
    mixed: tuple[Path, Path],
) -> None:
    overview = strict(mixed[1] / "comprehensive_results.json")["overview"]
    counts = {name: overview[name] for name in ("runs", "ok", "failed", "superseded", "unreadable")}
    assert counts == {"runs": 5, "ok": 4, "failed": 1, "superseded": 1, "unreadable": 5}


def test_devices_are_compared_apart(mixed: tuple[Path, Path]) -> None:
    results = strict(mixed[1] / "comprehensive_results.json")
    assert [group["device"] for group in results["overview"]["groups"][:2]] == ["cpu", "cuda"]
    assert {choice["label"] for choice in results["recommendations"] if choice["group"] == 2} == {"INT8 GPU"}
    assert (mixed[1] / "comprehensive_visualizations_2.png").exists()
    assert "comparable only within" in (mixed[1] / "comprehensive_report.txt").read_text(encoding="utf-8")


def test_markdown_rows_have_as_many_cells_as_their_heading(mixed: tuple[Path, Path]) -> None:
    markdown = (mixed[1] / "comparison.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", markdown + "\n", flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1
    assert r"a\|b &lt;img&gt; $x_1$ \[red\] \`c\`" in markdown and "<b>" not in markdown
    assert "0.900" in markdown and r"bad \| value with" in markdown


def test_no_temporary_file_is_left(mixed: tuple[Path, Path]) -> None:
    assert not list(mixed[1].glob(".*"))


@pytest.mark.usefixtures("undrawn")
def test_csv_holds_the_values_of_the_records(tmp_path: Path) -> None:
    made = [fp32(), record("third", 4, 1 / 3)]
    build_report([write(tmp_path / "runs", made)], tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    third, values = made[1], rows["third"]
    assert list(values) == list(COLUMNS)
    assert float(values["depth.mae"]) == third["fidelity"]["depth"]["mae"]
    assert float(values["compression_vs_fp32"]) == third["size"]["compression_vs_fp32"]
    assert int(values["stored_bytes"]) == third["size"]["stored_bytes"]
    milliseconds = third["latency"]["references"]["fp32"]["quantized_ms"]
    assert float(values["fp32.quantized_ms_median"]) == statistics.median(milliseconds)
    assert (rows["FP32"]["depth.psnr"], rows["FP32"]["depth.identical"]) == ("", "True")


def test_charts_differ_from_blank_paper_in_all_six_places(mixed: tuple[Path, Path]) -> None:
    pixels = np.asarray(Image.open(mixed[1] / "comprehensive_visualizations.png").convert("L"))
    height, width = pixels.shape
    for top in (0, height // 2):
        for left in (0, width // 3, 2 * width // 3):
            part = pixels[top : top + height // 2, left : left + width // 3]
            assert (part < 200).mean() > 0.003


def test_only_failed_runs_still_make_a_report(tmp_path: Path) -> None:
    report = build_report([write(tmp_path / "runs", [failed()])], tmp_path / "out")
    assert all(path.exists() for path in report.files)
    assert all(choice.row is None for group in report.groups for choice in group.choices)


@pytest.mark.usefixtures("undrawn")
def test_charts_of_an_older_report_are_removed(tmp_path: Path) -> None:
    (tmp_path / "comprehensive_visualizations_7.png").touch()
    build_report([write(tmp_path / "runs", [failed()])], tmp_path)
    assert not (tmp_path / "comprehensive_visualizations_7.png").exists()


def test_newest_run_of_an_experiment_stands_for_it(tmp_path: Path) -> None:
    newer = record(name="newer", started="2026-11-02T12:00:00+02:00")
    newest = record(name="newest", started="2026-11-02T10:00:01Z")
    other = record(name="other weights", model__fingerprint="e" * 16)
    found = collect([write(tmp_path, [newest, newer, other])])
    assert sorted(source.row["name"] for source in found.sources) == ["newest", "other weights"]
    assert found.superseded == 1


def test_the_same_configuration_on_other_images_is_another_experiment(tmp_path: Path) -> None:
    scene = record()["dataset"]["scenes"][0]
    other = record(dataset__scenes=[{**scene, "images_sha256": "b" * 64}], started="2026-11-03T10:00:00Z")
    found = collect([write(tmp_path, [record(), other])])
    assert (len(found.sources), found.superseded) == (2, 0)


def test_a_failure_without_scenes_gives_way_to_a_later_run(tmp_path: Path) -> None:
    early = failed("INT8 per channel") | {"dataset": None, "started": "2026-11-01T10:00:00Z"}
    found = collect([write(tmp_path, [early, record()])])
    assert [source.row["status"] for source in found.sources] == ["ok"] and found.superseded == 1


def test_a_later_success_replaces_a_run_that_failed_before_its_model_was_loaded(tmp_path: Path) -> None:
    early = failed("INT8 per channel") | {"model": None, "started": "2026-11-01T10:00:00Z"}
    found = collect([write(tmp_path, [early, record()])])
    assert [source.row["status"] for source in found.sources] == ["ok"]


def test_a_run_that_failed_early_joins_the_only_group_it_can_belong_to() -> None:
    early = row_of(failed() | {"model": None, "dataset": None})
    cpu = row_of(record())
    assert [len(group.rows) for group in group_rows([cpu, early])] == [2]
    gpu = row_of(record("GPU", environment__device="cuda"))
    assert {group.number: len(group.rows) for group in group_rows([cpu, gpu, early])} == {1: 2, 2: 1}
    nowhere = row_of(failed() | {"model": None, "dataset": None, "environment": None})
    assert group_rows([cpu, gpu, nowhere])[-1].number == 0


def test_other_images_are_another_group_but_another_folder_name_is_not() -> None:
    scene = record()["dataset"]["scenes"][0]
    same = record("b", dataset__scenes=[{**scene, "name": "elsewhere"}])
    other = record("c", dataset__scenes=[{**scene, "images_sha256": "b" * 64}])
    assert len(group_rows([row_of(made) for made in (record("a"), same)])) == 1
    assert len(group_rows([row_of(made) for made in (record("a"), other)])) == 2


def test_headline_error_is_the_mean_over_all_five_outputs_or_nothing() -> None:
    errors = dict(zip(OUTPUTS, (0.0, 0.1, 0.2, 0.3, 0.4), strict=True))
    row = row_of(record(error=errors))
    assert row["mean_relative_error"] == pytest.approx(0.2)
    assert row["grade"] == "poor"
    missing = row_of(record(fidelity__depth__relative_error=None))
    assert missing["mean_relative_error"] is None
    infinite = row_of(record(fidelity__depth__non_finite=3))
    assert infinite["mean_relative_error"] is None and infinite["non_finite"] == 3


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.0", True, 10**400])
def test_an_undefined_error_never_wins(value: object) -> None:
    broken = record("broken", 2, 1e-6, fidelity__depth__relative_error=value)
    assert winners(broken, record("sound"))["accuracy"] == "sound"
    assert winners(broken, record("sound"))["balanced"] == "sound"


def test_a_model_that_puts_out_nan_wins_nothing() -> None:
    broken = record("broken", 2, 1e-6, 9.0, fidelity__world_points__non_finite=1)
    assert set(winners(broken, record("sound")).values()) == {"sound"}


def test_failed_runs_never_win() -> None:
    crashed = record("crashed", 2, 0.0, 9.0) | {"status": "failed"}
    assert set(winners(crashed, record("sound")).values()) == {"sound"}


@pytest.mark.parametrize("changes", [{"simulated": True}, {"backends": {"reference": 1}}, {"latency": None}])
def test_simulated_or_missing_speed_never_wins_and_earns_no_credit(changes: dict) -> None:
    fast = change(record("unreal", speedup=9.0), **changes)
    assert winners(fast, record("real", speedup=1.2))["fastest"] == "real"
    assert choices(fast)["fastest"].row is None
    slow = change(record("unreal", speedup=0.5), **changes)
    assert balanced_score(row_of(fast)) == balanced_score(row_of(slow))


@pytest.mark.parametrize(
    ("speedup", "spread", "verdict"),
    [(1.3, 0.1, "faster"), (1.3, 0.4, "same"), (0.7, 0.1, "slower"), (0.9, 0.2, "same")],
)
def test_faster_is_only_what_lies_above_one_with_its_quartiles(
    speedup: float, spread: float, verdict: str
) -> None:
    made = record(speedup=speedup, spread=spread)
    assert speed_verdict(row_of(made)) == verdict
    assert (choices(made)["fastest"].row is not None) == (verdict == "faster")


def test_without_a_winner_the_rule_that_left_everyone_out_is_named() -> None:
    choice = choices(fp32(), record("INT8", speedup=1.01))["fastest"]
    assert choice.excluded == {"rule.compressed": ["FP32"], "rule.faster": ["INT8"]}
    assert "quartile interval not above 1.0 (INT8)" in explain(choice, translator("en"))


def test_production_takes_the_smallest_file_that_is_excellent_then_good() -> None:
    excellent, good, fair = record("excellent", 8, 0.004), record("good", 4, 0.02), record("fair", 3, 0.06)
    assert winners(excellent, good, fair)["production"] == "excellent"
    relaxed = choices(good, fair)["production"]
    assert relaxed.basis == "second" and relaxed.row is not None and relaxed.row["label"] == "good"
    assert "No row is shown to lose less than 0.01" in explain(relaxed, translator("en"))


def scored(label: str, bits: float, error: float, lost: float, half: float, **changes: Any) -> dict:
    """A record whose headline scores all lose as much, with an interval of that half width over 64 scenes."""
    made = record(label, bits, error, **changes)
    critical = scipy.stats.t.ppf(0.975, 63)

    def changed(sign: int) -> dict:
        ends = {"low": -sign * lost - half, "high": -sign * lost + half}
        p = 2 * scipy.stats.t.sf(abs(lost) / half * critical, 63)
        return {"mean": -sign * lost, "scenes": 64, "p": p} | ends

    made["geometry"]["change"] = {
        "pose": {name: changed(1) for name in ("auc_3", "auc_5", "auc_30")},
        "depth": {"inlier_1_03": changed(1), "abs_rel": changed(-1)},
    }
    return made


def test_production_loses_no_more_than_its_tolerance_where_ground_truth_can_tell() -> None:
    """Graded excellent and measurably worse does not count as good; shown to lose little does, whatever the grade."""
    lossy = scored("lossy", 3, 0.004, 0.02, 0.003)
    harmless = scored("harmless", 4, 0.03, 0.001, 0.001)
    large = scored("large", 8, 0.001, 0.0, 0.001)
    assert winners(fp32(), lossy, harmless, large)["production"] == "harmless"
    excluded = choices(fp32(), lossy, harmless)["production"].excluded
    assert excluded["rule.loss"] == ["lossy"]
    unclear = scored("unclear", 2, 0.03, 0.0, 0.02)
    assert winners(fp32(), unclear, large)["production"] == "large"
    assert winners(fp32(), scored("unclear", 2, 0.003, 0.0, 0.02), large)["production"] == "unclear"
    assert (
        winners(fp32(), scored("quick", 4, 0.03, 0.001, 0.001, simulated=True), large)["production"]
        == "large"
    )


def test_each_group_opens_with_one_sentence_that_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [fp32(), record("INT8", 8, 0.004), record("INT4", 4, 0.02)]
    assert main([str(write(tmp_path / "runs", rows)), f"out={tmp_path / 'out'}"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "For production: INT8, 96.3 MiB (3.96× smaller than FP32), its worst output graded excellent"
    )
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert markdown.index("**For production: INT8") < markdown.index("| FP32 |")
    text = " ".join((tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8").split())
    assert "For production: INT8, 96.3 MiB" in text
    for records, words in (
        ([fp32(), record("INT8", 8, 0.02)], "if a visible loss is acceptable: INT8"),
        ([fp32(), record("INT2", 2, 0.9)], "stay with FP32"),
        ([record("INT2", 2, 0.9)], "no run qualifies"),
        ([scored("INT4", 4, 0.03, 0.001, 0.001)], "shown to lose less than 0.01 in every headline score"),
    ):
        (group,) = group_rows([row_of(made) for made in records])
        assert words in answer(group, translator("en"))
        assert answer(group, translator("zh"))


def test_runs_that_never_started_stand_apart_and_can_be_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "runs", [fp32(), record(), refused(), failed()])
    (folder / "run_2" / ".hydra").mkdir()
    (folder / "run_2" / ".hydra" / "config.yaml").touch()
    (folder / "run_2" / "run.log").touch()
    (report := build_report([folder], tmp_path / "out"))
    assert [row["label"] for row in report.rows] == ["FP32", "INT8 per channel", "INT3 group 96"]
    assert [source.path.parent.name for source in report.refused] == ["run_2"]
    results = strict(tmp_path / "out" / "comprehensive_results.json")
    assert results["overview"]["refused"] == 1 and "group_size 96" in results["refused"][0]["reason"]
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "<details><summary>Refused before the start, and listed apart: 1 run." in markdown
    assert main([str(folder), f"out={tmp_path / 'out'}", "prune=refused"]) == 0
    assert "Deleted: 1 run that never started." in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["run_0", "run_1", "run_3"]


def test_pruning_leaves_what_is_no_file_of_a_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", [fp32(), refused()])
    (folder / "run_1" / "thesis.tex").write_text("mine")
    build_report([folder], tmp_path / "out", prune="refused")
    assert [path.name for path in (folder / "run_1").iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"no run below .* has started.*prune=refused"):
        build_report([write(tmp_path / "other", [refused()])], tmp_path / "out")


def test_networks_on_the_same_scenes_are_compared_in_pairs(tmp_path: Path) -> None:
    small = with_scenes(fp32(), 0.0), with_scenes(record("INT8"), -0.001)
    other = {"model__name": "pi3", "model__fingerprint": "9" * 16}
    larger = with_scenes(record("INT8 of Pi3", **other), 0.1)
    for i, scene in enumerate(larger["dataset"]["scenes"]):
        scene |= {"size": [98, 98], "images_sha256": f"{i + 50:064d}"}  # as that network wants them
    elsewhere = with_scenes(fp32(model__fingerprint="8" * 16), 0.0, scenes=5)
    report = build_report([write(tmp_path / "runs", [*small, larger, elsewhere])], tmp_path / "out")
    (table,) = report.networks
    assert (table.baseline, table.scenes) == ("vggt_small", 8)
    found = {(name, row["label"]): own["pose.auc_30"] for name, row, own in table.rows}
    assert list(found) == [("vggt_small", "FP32"), ("vggt_small", "INT8"), ("pi3", "INT8 of Pi3")]
    gained = found["pi3", "INT8 of Pi3"]
    differences = [0.1 * (1 + i / 50) for i in range(8)]
    assert gained.change.mean == pytest.approx(np.mean(differences)) and gained.verdict == "better"
    assert gained.baseline == pytest.approx(0.535) and found["vggt_small", "FP32"].verdict is None
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "## Networks on the same scenes" in markdown and "| pi3 | INT8 of Pi3 |" in markdown
    rows = strict(tmp_path / "out" / "comprehensive_results.json")["networks"][0]["rows"]
    assert rows[-1]["network"] == "pi3" and rows[-1]["pose.auc_30"]["verdict"] == "better"


@pytest.mark.parametrize("template", ["standard", "paper"])
def test_a_recipe_calibrated_on_rendered_scenes_is_marked_where_the_data_are_photographs(
    tmp_path: Path, template: str
) -> None:
    def on(dataset: str, calibration: str, label: str) -> dict:
        entry = dict.fromkeys(
            ("selection", "candidates", "outliers", "scenes", "frames", "samples", "sha256")
        )
        entry |= dict.fromkeys(("passes", "groups", "seconds"), 0)
        return record(label, dataset__name=dataset) | {"calibration": entry | {"name": calibration}}

    rows = [
        on("images", "objects", "GPTQ"),
        on("images", "images", "AWQ"),
        on("rooms", "objects", "SmoothQuant"),
    ]
    report = build_report([write(tmp_path / "runs", rows)], tmp_path / "out", template=template)
    assert {row["label"]: row["calibrated_elsewhere"] for row in report.rows} == {
        "GPTQ": True,
        "AWQ": False,
        "SmoothQuant": False,
    }
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert (
        "| GPTQ ‡ |" in markdown and "| AWQ |" in markdown and "‡ calibrated on rendered scenes" in markdown
    )
    if template == "paper":
        assert r"GPTQ \ddag{}" in (tmp_path / "out" / "results.tex").read_text(encoding="utf-8")


def test_milliseconds_of_different_runs_are_ratios_times_one_fp32_time(tmp_path: Path) -> None:
    """A run on a busy machine is no slower scheme: the same ratio is the same time, whatever FP32 took then."""

    def timed(label: str, speedup: float, slowed: float, **changes: Any) -> dict:
        made = record(label, 4, 0.004, speedup, **changes)
        pair = made["latency"]["references"]["fp32"]
        for side in ("reference_ms", "quantized_ms"):
            pair[side] = [slowed * ms for ms in pair[side]]
        return made

    rows = [
        fp32(),
        timed("quiet", 2.0, 1.0),
        timed("busy", 2.0, 4.0),
        timed("other", 2.0, 3.0, environment__threads=8),
    ]
    (group,) = group_rows([row_of(made) for made in rows])
    quiet, busy, other = (
        next(r for r in group.ok if r["label"] == name) for name in ("quiet", "busy", "other")
    )
    assert quiet["fp32.quantized_ms_median"] * 4 == pytest.approx(busy["fp32.quantized_ms_median"])
    assert (
        quiet["fp32.comparable_ms_median"] == busy["fp32.comparable_ms_median"] == quiet["fp32.common_ms"] / 2
    )
    assert quiet["fp32.common_ms"] == 104 and other["fp32.common_ms"] == 312
    assert (
        quiet["fp32.comparable_ms_q25"] < quiet["fp32.comparable_ms_median"] < quiet["fp32.comparable_ms_q75"]
    )
    reference = next(row for row in group.ok if row["label"] == "FP32")
    assert reference["fp32.comparable_ms_median"] == reference["fp32.common_ms"]
    (group,) = group_rows([row_of(made) for made in rows[:3]])
    assert "one FP32 time, 104 ms" in " ".join(group_notes(group, translator("en")))
    axis = draw(group, translator("en")).axes[1]
    assert [round(bar.get_width(), 3) for bar in axis.patches if bar.get_width() > 1] == [104, 52, 52]


def test_depth_alone_does_not_show_that_the_cameras_are_sound() -> None:
    harmless = scored("harmless", 4, 0.03, 0.001, 0.001)
    del harmless["geometry"]["change"]["pose"]
    assert winners(fp32(), harmless, record("large", 8, 0.004))["production"] == "large"


def test_a_loss_beside_its_tolerance_is_told_as_often_as_a_t_test_says() -> None:
    """One-sided tests at 2.5 % each, against scipy's; corrected for the rows."""
    generator = np.random.default_rng(0)
    values = generator.normal(-0.004, 0.02, 64)
    change = paired_interval(list(values))
    expected = scipy.stats.ttest_1samp(values, -TOLERANCE, alternative="greater").pvalue
    assert p_of_at_most(change, -TOLERANCE) == pytest.approx(expected)
    assert losses([change], 1) == ["within" if expected <= 0.025 else "open"]
    assert losses([Interval(-0.02, -0.023, -0.017, 64, 0.0), Interval(0.0, None, None, 2), None], 1) == [
        "beyond",
        "open",
        None,
    ]
    assert losses([Interval(0.0, 0.0, 0.0, 64, 1.0)], -1) == ["within"]
    barely = Interval(-0.005, -0.0099, -0.0001, 64, 0.04)
    assert losses([barely], 1) == ["within"] and losses([barely] * 9, 1) == ["open"] * 9


@pytest.mark.parametrize("guide", ["docs/guide/choosing.md", "docs/zh/choosing.md"])
def test_the_guide_states_the_rule_for_production_and_names_what_it_picks(guide: str) -> None:
    """The picks are computed again from the table of docs/accuracy.md, by the rule that reports apply."""
    words = (ROOT / guide).read_text(encoding="utf-8")
    section = words.partition('<a id="production"></a>')[2].split("\n## ")[1]
    assert f"{TOLERANCE}" in section and f"{LEAST_AUC}" in section
    table = (
        (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").partition("## Significant differences")[0]
    )
    rows = [
        line.strip("| ").split(" | ") for line in table.splitlines() if "±" in line and line.startswith("|")
    ]
    found: list[list[str | None]] = []
    for column, metric in enumerate(DECIDING):
        numbers = [[float(word.replace("−", "-")) for word in row[4 + column].split(" ± ")] for row in rows]
        changes = [Interval(mean, mean - half, mean + half, 256) for mean, half in numbers]
        found.append(losses(changes, metric.direction))
    assert len(rows) == 14 and [metric.key for metric in DECIDING][-1] == "abs_rel"
    sound = [row for row, own in zip(rows, zip(*found, strict=True), strict=True) if loss_of(own) == "within"]
    smallest = min(sound, key=lambda row: (float(row[1]), float(row[2])))
    scheme = re.findall(r"\(`(\w+)`\)", smallest[0])[0]
    assert f"`{scheme}`" in section


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.usefixtures("undrawn")
def test_nothing_is_recommended_for_production_where_fp32_itself_fails(tmp_path: Path, lang: str) -> None:
    failing = {"geometry__reference__pose__auc_30": 0.02}
    rows = [fp32(**failing), record("INT8", 8, 0.004, **failing)]
    found = choices(*rows)
    assert (found["production"].basis, found["production"].row) == ("withheld", None)
    assert found["smallest"].row is not None
    assert "0.05" in explain(found["production"], translator(lang))
    report = build_report([write(tmp_path / "runs", rows)], tmp_path / "out", lang, "paper")
    assert report.groups[0].ok
    text = (tmp_path / "out" / "paper.md").read_text(encoding="utf-8")
    words = {"en": "fails on these data", "zh": "在这些数据上失败"}
    assert words[lang] in text and "0.05" in text
    assert "FP32 remains the choice" not in text
    assert (
        winners(*[change(row, geometry__reference__pose__auc_30=0.3) for row in rows])["production"] == "INT8"
    )


def test_fp32_stands_in_only_where_no_compressed_row_qualifies() -> None:
    assert "FP32" not in winners(fp32(), record()).values()
    assert winners(fp32(), record(bits=2, error=0.9))["production"] == "FP32"
    alone = choices(fp32())
    assert [need for need, choice in alone.items() if choice.row] == ["production", "smallest", "balanced"]
    assert alone["smallest"].basis == "reference"
    assert "uncompressed FP32 model" in explain(alone["smallest"], translator("en"))


def test_random_weights_carry_their_caveat() -> None:
    choice = choices(record(model__weights="random"))["accuracy"]
    assert "say nothing about reconstruction quality" in explain(choice, translator("en"))


def test_recommendations_do_not_depend_on_the_order_of_the_records() -> None:
    records = many(12)
    assert winners(*records) == winners(*records[::-1])


coordinates = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, math.nan])


@settings(max_examples=200)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=8))
def test_pareto_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    valid = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in valid if not any(beats(points[j], points[i]) for j in valid)}
    front = pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_escaped_names_stay_in_their_cell(name: str) -> None:
    escaped = escape(name)
    assert len(escaped.splitlines()) <= 1 and "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", escaped)


def test_frame_and_rows_are_the_same_data() -> None:
    rows = [row_of(made) for made in (fp32(), failed(), record())]
    frame = frame_of(rows)
    plain = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert plain == rows
    assert list(frame_of([]).columns) == list(COLUMNS)


@pytest.mark.parametrize(
    "place", ["size", "latency", "fidelity", "geometry", "dataset", "scheme", "environment"]
)
def test_a_record_with_a_broken_part_keeps_the_rest(place: str) -> None:
    row = row_of(change(record(), **{place: "nonsense"}))
    assert row["status"] == "ok" and row["model"] == "vggt_small"


def test_quartiles_ignore_what_is_no_number() -> None:
    assert known_quartiles([3.0, None, 1.0, 2.0, "x"]) == (1.5, 2.0, 2.5)
    assert known_quartiles([]) == (None, None, None)


def test_summary_tables_print_names_as_they_are() -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(summary_of(map(read, [record("[red]a[/red]"), failed("b", "no [bold]")])))
    console.print(summary_of([read(fp32())], "zh"))
    printed = console.export_text()
    assert "[red]a[/red]" in printed and "平均相对误差" in printed
    assert "no [bold]" not in printed  # why runs failed is told outside, one line each


def test_chinese_report_has_chinese_headings_and_latin_metrics(tmp_path: Path) -> None:
    build_report([write(tmp_path / "runs", [fp32(), record()])], tmp_path / "out", "zh")
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    report = (tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8")
    assert "生产部署" in markdown and "PSNR" in markdown and "INT8 per channel" in markdown
    assert "全部指标" in report and "Recommend" not in report


@pytest.mark.usefixtures("undrawn")
def test_chinese_report_leaves_only_names_and_metrics_untranslated(tmp_path: Path) -> None:
    runs = [fp32(model__weights="random"), record("INT8", model__weights="random", simulated=True)]
    folder = write(tmp_path / "runs", [*runs, record("INT8", model__weights="random", config={"seed": 1})])
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text("{")
    build_report([folder], tmp_path / "out", "zh")
    columns = " ".join(COLUMNS)  # their names are those of the metrics
    metrics = (
        "VGGT FP32 FP16 BF16 INT8 MiB dB ms UTC AUC inlier Holm AbsRel NaN Inf PSNR MAE RSS CUDA JSON cosine"
    )
    names = "vggt_small rooms cpu Test CPU seed runs/broken/result.json comprehensive_visualizations.png accuracy_over_time.png"
    for file in ("comparison.md", "comprehensive_report.txt"):
        words = (tmp_path / "out" / file).read_text(encoding="utf-8").replace(str(tmp_path), "")
        found = set(re.findall(r"(?<![\w.-])[A-Za-z]{2}[\w.]*", words, flags=re.ASCII))
        hashes = {word for word in found if re.fullmatch("[0-9a-f]{12}", word)}
        assert {word for word in found - hashes if word not in f"{columns} {metrics} {names}"} == set()
        assert "随机权重" in words and "压缩率" not in words


@pytest.mark.usefixtures("undrawn")
def test_without_a_chinese_font_charts_are_english_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vggtq.machine.fonts.find_cjk_font", lambda: None)
    build_report([write(tmp_path / "runs", [failed()])], tmp_path / "out", "zh")
    assert "charts are in English" in caplog.text
    assert "图表改用英文" in (tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8")


def test_every_text_takes_the_same_values_in_both_languages() -> None:
    free = {"paper.model"}  # counts in millions and in 万
    for key, (english, chinese) in TEXTS.items():
        fields = [set(re.findall(r"{(\w+)", text)) for text in (english, chinese)]
        assert fields[0] == fields[1] or key in free, key


def test_long_lines_are_wrapped_without_losing_a_character() -> None:
    text = "平均相对误差：五个输出的算术平均，" * 8 + " and some words" * 12
    assert "".join("".join(wrap(text)).split()) == "".join(text.split())
    assert max(map(len, wrap(text))) <= 100


def test_errors_of_the_python_entry(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vggtq run"):
        build_report([tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist"):
        build_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ConfigError, match="is not one of en, zh"):
        build_report([tmp_path], tmp_path / "out", "fr")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["report.lnag=zh"], 2, "did you mean lang?"),
        (["--lang", "zh"], 2, "--lang: options are written without dashes: lang=…"),
        (["nowhere"], 2, "folder nowhere does not exist"),
        ([], 1, "vggtq run"),
    ],
)
def test_command_line_errors_are_one_line(
    arguments: list[str], status: int, words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vggtq.report", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert words in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


def test_a_report_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32()])
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "vggtq.report", "report.out=file/report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for words in ("report.out=file/report", "Not a directory", "name a folder that you may write to"):
        assert words in done.stderr
    assert "Errno" not in done.stderr
    with pytest.raises(ConfigError, match=r"report\.out=.*cannot be written"):
        build_report([tmp_path / "outputs"], Path("/dev/null/x"))


def test_a_reader_that_stops_early_gets_no_traceback(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), record()])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-m", "vggtq.report"]
        done = subprocess.run(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_command_line_tells_each_failure_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), failed(message="a long reason " * 8)])
    command = [sys.executable, "-m", "vggtq.report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert line == "failed: INT3 group 96: QuantizationError: " + " ".join(["a long reason"] * 8)


LONG_NAME = "int4_group-w4-g7-motorcycle-vggt_small-c38f74fb"


def test_a_failed_run_is_called_by_its_scheme_or_by_a_short_name() -> None:
    early = failed() | {"scheme": None, "name": LONG_NAME}
    titles = titles_of(fp32(), failed() | {"name": LONG_NAME}, early)
    assert titles == ["FP32", "INT3 group 96", "int4_group-w4-g…c38f74fb"]


def test_runs_of_one_label_are_told_apart_by_the_settings_that_differ() -> None:
    def seeded(label: str, seed: int, rounds: int = 7, **more: object) -> dict:
        config = {
            "seed": seed,
            "timing": {"rounds": rounds, "mode": "paired"},
            "device": {"mode": "x"},
        } | more
        return record(label, name=f"run-{seed}-{rounds}", config=config, config_hash=f"{seed}-{rounds}")

    assert titles_of(seeded("a", 0), seeded("a", 5), seeded("b", 0)) == ["a (seed=0)", "a (seed=5)", "b"]
    two = titles_of(seeded("a", 0), seeded("a", 5, 9), seeded("a", 0, 9))
    assert two == ["a (seed=0, rounds=7)", "a (seed=0, rounds=9)", "a (seed=5, rounds=9)"]
    modes = [seeded("a", 0, timing={"mode": m}) | {"config_hash": m} for m in ("off", "paired")]
    assert titles_of(*modes) == ["a (timing.mode=off)", "a (timing.mode=paired)"]
    three = titles_of(seeded("a", 0, x=1), seeded("a", 5, 9, x=2))
    assert three == ["a (run-0-7)", "a (run-5-9)"]
    assert titles_of(seeded("a", 0), failed("a") | {"config": None}) == ["a (run-0-7)", "a"]


def titles_of(*records: dict) -> list[str]:
    """As `comparison.csv` has them and, the same, as the terminal prints them."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(summary_of(map(read, records)))
    printed = console.export_text()
    report = make_report(Collection([source_of(Path(str(i)), read(made)) for i, made in enumerate(records)]))
    titles = [row["title"] for group in report.groups for row in group.rows]
    assert all(f"│ {title} " in printed for title in titles)
    assert titles == report.frame["title"].tolist()
    return titles


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [fp32()],
            "1 run: 1 succeeded, 0 failed. 0 older runs of the same experiment left out; 0 files unrea",
        ),
        ([fp32(), record(), record(name="x")], "2 runs: 2 succeeded, 0 failed. 1 older run of the same"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_counts_agree_with_their_nouns(records: list[dict], words: str, tmp_path: Path) -> None:
    build_report([write(tmp_path / "runs", records)], tmp_path / "out")
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert words in markdown and "1 scene, 2 frames" in markdown


@pytest.mark.usefixtures("undrawn")
def test_equal_outputs_are_called_identical_in_every_file(tmp_path: Path) -> None:
    for lang, word in (("en", "identical"), ("zh", "完全一致")):
        build_report([write(tmp_path / f"{lang}_runs", [fp32()])], tmp_path / lang, lang)
        report = (tmp_path / lang / "comprehensive_report.txt").read_text(encoding="utf-8")
        (line,) = re.findall(r"^  world_points .*", report, flags=re.MULTILINE)
        assert line.split()[5] == word
        assert f"| {word} |" in (tmp_path / lang / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_a_change_without_interval_and_the_dagger_stay_where_they_belong(tmp_path: Path) -> None:
    made = record("INT4 group null (per-channel)", simulated=True)
    nothing = {"mean": -0.004, "low": None, "high": None, "scenes": 1}
    made["geometry"]["change"] = {"pose": {"auc_30": nothing}, "depth": {"abs_rel": nothing}}
    build_report([write(tmp_path / "runs", [made])], tmp_path / "out")
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    (line,) = (line for line in markdown.splitlines() if line.startswith("| INT4 group null (per-channel) |"))
    assert "[" not in line and line.count("†") == 1
    assert "Within the noise" not in markdown and "by more than noise" not in markdown
    assert "Too few scenes to tell" in markdown


def test_command_line_writes_a_report_without_importing_torch(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), record()])
    program = "import sys; from vggtq.report.__main__ import main; print(main([]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "INT8 per channel" in done.stdout
    assert (tmp_path / "outputs/report/comprehensive_visualizations.png").stat().st_size > 10_000


@pytest.mark.usefixtures("undrawn")
def test_files_that_are_no_records_are_named_and_fail_a_strict_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs", [fp32(), record()])
    for name, content in (("damaged", "{"), ("foreign", '{"loss": 1}')):
        (tmp_path / "outputs" / name).mkdir()
        (tmp_path / "outputs" / name / "result.json").write_text(content)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "outputs/damaged/result.json: not valid JSON (line 1)" in shown
    assert "outputs/foreign/result.json: not a vggtq record" in shown
    assert main(["strict=true"]) == 1
    for name in ("damaged", "foreign"):
        (tmp_path / "outputs" / name / "result.json").unlink()
    assert main(["strict=true"]) == 0


@pytest.mark.usefixtures("undrawn")
def test_changes_against_fp32_come_with_their_interval(tmp_path: Path) -> None:
    def with_interval(label: str, low: float, high: float, p: float) -> dict:
        made = record(label, 4, 0.004)
        made["geometry"]["change"] = {
            "pose": {"auc_30": {"mean": (low + high) / 2, "low": low, "high": high, "scenes": 8, "p": p}}
        }
        return made

    lost, same = with_interval("lossy", -0.03, -0.01, 0.002), with_interval("harmless", -0.02, 0.01, 0.5)
    row = row_of(lost)
    assert (row["geometry.change.pose.auc_30.low"], row["geometry.change.pose.auc_30.high"]) == (-0.03, -0.01)
    write(tmp_path, [fp32(), lost, same])
    build_report([tmp_path], tmp_path / "report")
    table = (tmp_path / "report" / "comparison.md").read_text()
    assert re.search(r"\(0\.900\) −0\.020 \\\[−0\.030, −0\.010\\\] \\\*", table)
    assert "can show here: AUC@30 ±0.0125 (half" in table  # the median of .010 and .015
    words = explain(choices(fp32(), lost)["smallest"], translator("en"))
    assert "Worse than FP32 by more than noise: AUC@30 [−0.030, −0.010]." in words
    words = explain(choices(fp32(), same)["smallest"], translator("en"))
    assert "Within the noise of these scenes: the change in AUC@30 [−0.020, +0.010]." in words


def test_many_rows_need_more_evidence_than_one() -> None:
    """An interval that excludes 0 tells a loss of one row, and not among ten (Holm)."""

    def row(i: int, p: float) -> dict:
        made = record(f"scheme {i}", 4, 0.004)
        made["geometry"]["change"] = {
            "pose": {"auc_30": {"mean": -0.02, "low": -0.039, "high": -0.001, "scenes": 8, "p": p}}
        }
        return made

    def found(*p_values: float) -> list[str | None]:
        (group,) = group_rows([row_of(fp32()), *(row_of(row(i, p)) for i, p in enumerate(p_values))])
        by_label = {row["label"]: row.get("geometry.change.pose.auc_30.verdict") for row in group.rows}
        assert by_label.pop("FP32") is None
        return [by_label[f"scheme {i}"] for i in range(len(p_values))]

    assert found(0.04) == ["worse"]
    assert found(0.04, *[0.04] * 9) == ["open"] * 10
    assert found(0.004, 0.04, *[0.5] * 8) == ["worse", *["open"] * 9]


@pytest.mark.parametrize(("lang", "words"), [("en", "oo few scenes to tell"), ("zh", "场景太少，无法判断")])
@pytest.mark.usefixtures("undrawn")
def test_two_scenes_are_too_few_to_tell_in_every_file(lang: str, words: str, tmp_path: Path) -> None:
    made = record("INT4", 4, 0.004)
    made["geometry"]["change"] = {
        "pose": {"auc_30": {"mean": -0.1, "low": None, "high": None, "scenes": 2, "p": None}}
    }
    report = build_report([write(tmp_path, [fp32(), made])], tmp_path / "out", lang, "paper")
    for name in ("comparison.md", "comprehensive_report.txt", "paper.md", "results.tex"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert words in text, name
        assert not re.search(
            r"worse than FP32|better than FP32|显著|[优差好]于 FP32，且", text, re.IGNORECASE
        ), name
    (group,) = page_data(report, lang)["groups"]
    assert any(words in note for note in group["text"][lang]["notes"])
    console = Console(width=200, file=io.StringIO())
    console.print(groups_table(report.groups, lang))
    assert words in console.file.getvalue()


def test_a_bootstrap_interval_of_an_old_record_is_computed_again() -> None:
    pairs = [(0.50, 0.52), (0.61, 0.60), (0.40, 0.44), (0.71, 0.70)]
    made = record("INT4", 4, 0.004)
    made["geometry"]["change"] = {
        "pose": {"auc_30": {"mean": -0.01, "low": -0.025, "high": -0.001, "scenes": 4}}
    }
    sides = [{"quantized": q, "reference": r} for q, r in pairs]
    made["geometry"]["scenes"] = [
        {"scene": str(i)} | {side: {"pose": {"auc_30": value}} for side, value in pair.items()}
        for i, pair in enumerate(sides)
    ]
    row, expected = row_of(made), scipy.stats.ttest_rel(*zip(*pairs, strict=True))
    ends = expected.confidence_interval(0.95)
    for end, value in (("low", ends.low), ("high", ends.high), ("p", expected.pvalue)):
        assert row[f"geometry.change.pose.auc_30.{end}"] == pytest.approx(value)
    del made["geometry"]["scenes"]  # nothing to compute it from: no interval
    assert row_of(made)["geometry.change.pose.auc_30.low"] is None


def test_a_small_change_shows_its_digits_and_its_side_of_zero() -> None:
    assert (
        beside(0.1, 0.1, Interval(-0.0004, -0.0009, 0.0001, 4)) == "0.100 (0.100) −0.0004 [−0.0009, +0.0001]"
    )
    assert beside(0.1, 0.1, Interval(0.0, 0.0, 0.0, 4)) == "0.100 (0.100) 0 [0, 0]"
    assert interval(-0.00011, -0.00022, -0.000004) == ["−0.000110", "−0.000220", "−0.000004"]
    assert interval(-0.02, -0.03, -0.01) == ["−0.020", "−0.030", "−0.010"]


def test_runs_that_differ_in_bits_alone_are_one_curve_of_the_pareto_chart() -> None:
    made = [
        record(f"INT{bits} group 64", bits, 0.1 / bits, scheme__family="INTn group 64") for bits in (2, 4, 8)
    ]
    made += [record(f"auto {bits}", bits, 0.05 / bits, scheme__family="auto n bits") for bits in (3, 4, 6)]
    made += [
        record("auto 4 again", 4, 0.3, scheme__family="auto n bits")
    ]  # another seed, no step of the curve
    made += [record(f"lone {bits}", bits, 0.1, scheme__family="lone") for bits in (5, 7)]
    rows = [row_of(one) for one in [fp32(), *made]]
    (long, uniform), (short, found) = families(rows)
    assert (long, short) == ("INTn group 64", "auto n bits") and len(uniform) == len(found) == 3
    assert uniform == sorted(uniform) and found[1][1] < 0.05
    (group,) = group_rows(rows)
    labels = draw(group, translator("en")).axes[5].get_legend_handles_labels()[1]
    assert {"INTn group 64", "auto n bits"} <= set(labels) and "lone" not in labels


def test_no_line_of_the_pareto_chart_runs_through_another_point() -> None:
    int8 = [("tensor asymmetric", 3.251, 4.32e-4), ("tensor symmetric", 3.254, 4.13e-4)]
    int8 += [("channel asymmetric", 3.21, 4.47e-4), ("channel symmetric", 3.22, 4.28e-4)]
    schemes = [(f"INT8 per-{name}", times, error) for name, times, error in int8]
    schemes += [
        ("INT4 group 32", 4.85, 0.00601),
        ("INT4 group 64", 5.02, 0.00719),
        ("INT4 group 128", 5.1, 0.00671),
    ]
    made = [record(name, error=error, size__compression_vs_fp32=times) for name, times, error in schemes]
    for one, (*_, error) in zip(made, schemes, strict=True):
        for output in OUTPUTS:
            one["fidelity"][output]["relative_error"] = error
    (group,) = group_rows([row_of(one) for one in [fp32(), *made]])
    axis = draw(group, translator("en")).axes[5]
    names = {text.get_text(): text for text in axis.texts}
    assert len(names) == 8
    points = [axis.transData.transform(text.xy) for text in names.values()]
    for text in names.values():
        start = axis.transData.transform(text.xy)
        steps = np.linspace(0, 1, 50)[:, None] * np.array(text.xyann) * axis.figure.dpi / 72
        for other in points:
            if np.abs(other - start).max() > 8:
                assert np.abs(start + steps - other).max(axis=1).min() > 4


def test_a_run_in_another_engine_has_the_bytes_of_its_file() -> None:
    data = record("INT8 in OpenVINO")
    ours = row_of(data)
    data["engine"] = {
        "name": "openvino",
        "version": "2026.4.1",
        "file_bytes": 2 * int(ours["stored_bytes"]),
        "threads": 1,
        "ran": {"FullyConnected": 54},
        "arithmetic": "weights dequantized, products in float",
        "float_precision": "float32",
        "parity": {"depth": {"error": 1e-6, "limit": 1e-3}},
    }
    row = row_of(data)
    assert (row["engine"], row["arithmetic"]) == ("openvino", "weights dequantized, products in float")
    assert row["stored_bytes"] == 2 * ours["stored_bytes"]
    assert row["compression_vs_fp32"] == pytest.approx(ours["float32_bytes"] / row["stored_bytes"])
    assert row["bits_per_weight"] == pytest.approx(8 * row["stored_bytes"] / ours["parameters"])
    assert ours["engine"] is None
