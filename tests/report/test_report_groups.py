"""Which runs stand for an experiment, which are compared with each other, and which stand apart."""

from pathlib import Path

import numpy as np
import pytest

from helpers.report_records import failed, fp32, record, refused, row_of, strict, with_scenes, write
from vggtq.errors import DataError
from vggtq.report import build_report
from vggtq.report.__main__ import main
from vggtq.report.rows.collection import collect
from vggtq.report.rows.groups import group_rows


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
