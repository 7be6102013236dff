"""Thousands of records: tables need no layers, and texts and pictures stay readable."""

import json
import re
from pathlib import Path

import pytest

from helpers.report_records import change, failed, fp32, record, row_of, write
from helpers.report_scale import records as scale_records
from vggtq.records.migrations import migrated
from vggtq.records.reading import NotARecord, read_record
from vggtq.records.schema import SCHEMA_VERSION
from vggtq.report import build_report
from vggtq.report.charts.sheet import draw
from vggtq.report.rows.collection import collect
from vggtq.report.rows.groups import Group, group_rows
from vggtq.report.rows.shortlist import DRAWN_ROWS, READ_ROWS
from vggtq.report.rows.sources import source_of
from vggtq.report.words.texts import translator

EN = translator("en")


def test_the_first_runs_records_are_read_in_the_present_form() -> None:
    early = record() | {"memory": {"peak_rss_bytes": 2**30, "predict_peak_increase_bytes": 2**20}}
    for key in ("sweep", "baseline", "calibration", "preview", "artifact"):
        early.pop(key, None)
    now = migrated(dict(early))
    assert now["schema_version"] == SCHEMA_VERSION
    assert now["memory"]["both_alive"] == early["memory"] and "both models" in now["memory"]["reason"]
    row = row_of(now)
    assert (
        row["memory.quantized.peak_rss_bytes"] is None
        and row["stored_bytes"] == early["size"]["stored_bytes"]
    )
    later = record()
    assert migrated(dict(later))["memory"] == later["memory"]


@pytest.mark.parametrize(
    ("version", "words"), [(99, "newer than"), (0, "unknown"), ("1", "unknown"), (True, "unknown")]
)
def test_other_versions_are_listed_with_their_reason(version: object, words: str, tmp_path: Path) -> None:
    write(tmp_path, [fp32(), record(schema_version=version)])
    found = collect([tmp_path])
    assert len(found.sources) == 1 and words in found.unreadable[0].reason


@pytest.mark.parametrize("layout", [1, 2, None])
def test_tables_need_no_layers_and_are_the_same_without(tmp_path: Path, layout: int | None) -> None:
    made = list(scale_records(3))[-1]
    made["notes"] = ['the words \n "layers": [\n in a note']
    for name, layers in {"with": made["layers"], "none": [], "null": None, "odd": "]"}.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(made | {"layers": layers}, indent=layout))
        assert source_of(path, read_record(path, layers=False)) == source_of(path, read_record(path))
    read = read_record(tmp_path / "with.json").layers
    assert [(layer.name, layer.bits) for layer in read] == [
        (one["name"], one["bits"]) for one in made["layers"]
    ]


def test_a_record_torn_within_its_layers_is_told_with_its_line(tmp_path: Path) -> None:
    text = json.dumps(list(scale_records(2))[-1], indent=1)
    path = tmp_path / "result.json"
    path.write_text(text[: text.index("weight_sqnr_db")])
    line = path.read_text().count("\n") + 1
    with pytest.raises(NotARecord, match=f"line {line}"):
        read_record(path, layers=False)
    path.write_text(text[:-20])
    with pytest.raises(NotARecord, match=f"line {text[:-20].count(chr(10)) + 1}"):
        read_record(path, layers=False)


@pytest.fixture(scope="module")
def large() -> Group:
    made = [row_of(one) for one in scale_records(1200)]
    return group_rows(made, [{} for _ in made])[0]


def test_what_is_shown_of_many_holds_fp32_the_recommended_and_every_label(large: Group) -> None:
    shown = large.shown(READ_ROWS)
    assert len(shown) == READ_ROWS < len(large.ok)
    titles = [row["title"] for row in shown]
    assert titles == [row["title"] for row in large.ok if row["title"] in set(titles)]
    for choice in large.choices:
        assert choice.row is None or choice.row in large.shown(DRAWN_ROWS)
    assert {row["label"] for row in shown} == {row["label"] for row in large.ok}
    assert large.shown(10_000) == large.ok


def test_charts_of_many_runs_name_a_few_and_count_the_rest(large: Group) -> None:
    figure = draw(large, EN)
    assert f"Shown are {DRAWN_ROWS} of {len(large.ok)} runs" in figure.get_suptitle()
    assert len(figure.axes[0].get_yticks()) == DRAWN_ROWS
    pareto = figure.axes[5]
    assert 2 <= len(pareto.texts) <= 10
    legend = [text.get_text() for text in pareto.get_legend().get_texts()]
    assert re.fullmatch(r"\d+ other runs, darker where more", legend[0])
    assert pareto.get_yticklabels()[0].get_text() == "0"  # FP32, which lost nothing


@pytest.mark.usefixtures("undrawn")
def test_texts_of_many_runs_say_what_they_leave_out(tmp_path: Path) -> None:
    made = list(scale_records(READ_ROWS * 2))
    for i, one in enumerate(made):
        one["environment"] |= {"device": "cpu", "gpu": None}
        one["config_hash"] = f"{i:012x}"
    failures = [change(failed(f"bad {i}"), config_hash=f"f{i:011x}") for i in range(READ_ROWS + 5)]
    (tmp_path / "runs" / "torn").mkdir(parents=True)
    (tmp_path / "runs" / "torn" / "result.json").write_text('{"schema_version": 1, "sta')
    report = build_report([write(tmp_path / "runs", made + failures)], tmp_path / "out")
    (group,) = report.groups
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert f"Shown are {READ_ROWS} of {len(group.ok)} runs" in markdown
    assert "more failed runs in comparison.csv" in markdown and "torn/result.json" in markdown
    assert len((tmp_path / "out" / "comparison.csv").read_text().splitlines()) == 1 + len(group.rows)
    rows = json.loads((tmp_path / "out" / "comprehensive_results.json").read_text())["rows"]
    assert len(rows) == len(group.rows)


@pytest.mark.usefixtures("undrawn")
def test_parquet_holds_the_rows_or_a_line_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "runs", [fp32(), record(), failed()])
    monkeypatch.setattr("vggtq.report.build.find_spec", lambda name: None)
    assert "vggtq[parquet]" in "".join(build_report([folder], tmp_path / "out").hints)
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet")
    report = build_report([folder], tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "comparison.parquet")
    assert table.num_rows == 3 and table.column_names == list(report.frame.columns)
    assert table["stored_bytes"].to_pylist()[0] == report.groups[0].rows[0]["stored_bytes"]
    assert not report.hints
