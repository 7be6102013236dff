"""Thousands of records: nothing is read twice, an index is never trusted when stale, and pictures stay readable."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest

from report_records import change, failed, fp32, many, record, write
from report_scale import records as scale_records
from vggtq.migrations import migrated
from vggtq.record import KEYS, SCHEMA_VERSION
from vggtq.report import build_report
from vggtq.report.charts import draw
from vggtq.report.collection import Collection, collect
from vggtq.report.frame import record_row
from vggtq.report.groups import Group, group_rows
from vggtq.report.i18n import translator
from vggtq.report.index import INDEX_NAME, load_index, write_index
from vggtq.report.records import NotARecord, read_record
from vggtq.report.shortlist import DRAWN_ROWS, READ_ROWS
from vggtq.report.sources import source_of

EN = translator("en")


def old(folder: Path) -> Path:
    """Records as a report finds them that is made an hour after the runs."""
    for path in folder.rglob("result.json"):
        age(path)
    return folder


def age(path: Path, seconds: float = 3600) -> None:
    """Sets the time of modification; the time of change cannot be set, so the tests make the index ignore its age."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve records and the index of a report over them."""
    monkeypatch.setattr("vggtq.report.index._TICK_NS", 0)
    folder = old(write(tmp_path / "runs", [*many(11), failed()]))
    collected(folder)
    return folder


def collected(folder: Path) -> tuple[int, Collection]:
    """How many records were read, and what was found; leaves the index in the folder above."""
    place = folder.parent / INDEX_NAME
    index = load_index(place)
    found = collect([folder], index=index)
    if index.changed:
        write_index(index.packed(), place)
    return index.read, found


def test_unchanged_records_are_not_read_again_and_give_the_same(indexed: Path) -> None:
    read, found = collected(indexed)
    assert read == 0
    assert found == collect([indexed])
    assert [list(a.row) for a in found.sources] == [list(b.row) for b in collect([indexed]).sources]


def test_a_changed_record_is_read_again_whatever_its_time_says(indexed: Path) -> None:
    path = indexed / "run_3" / "result.json"
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace('"label": "INT', '"label": "XNT'))  # same size, same time of modification
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    read, found = collected(indexed)
    assert read == 1 and sum(source.row["label"].startswith("XNT") for source in found.sources) == 1
    assert collected(indexed)[0] == 0


def test_new_and_removed_records_change_the_index(indexed: Path) -> None:
    shutil.rmtree(indexed / "run_0")
    write(indexed / "more", [record("new")])
    read, found = collected(indexed)
    assert read == 1 and len(found.sources) == 12
    assert len(load_index(indexed.parent / INDEX_NAME).known) == 12


def test_a_record_of_this_very_moment_is_not_trusted(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", [fp32()])
    assert collected(folder)[0] == 1 and collected(folder)[0] == 1


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"no index", None])
def test_a_damaged_index_is_told_and_rebuilt(
    indexed: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    place = indexed.parent / INDEX_NAME
    content = bytearray(place.read_bytes())
    content[-9] ^= 1
    place.write_bytes(content if damage is None else damage)
    with caplog.at_level(logging.WARNING, "vggtq.report"):
        read, found = collected(indexed)
    assert read == len(found.sources) == 12
    assert len(caplog.messages) == 1 and "is damaged" in caplog.text
    assert collected(indexed)[0] == 0


def test_an_index_of_other_code_is_read_anew_without_a_word(
    indexed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vggtq.report.index._code", lambda: "another")
    assert collected(indexed)[0] == 12 and not caplog.messages


def test_a_second_report_is_the_first_one(indexed: Path, tmp_path: Path) -> None:
    for _ in range(2):
        build_report([indexed], tmp_path / "out")
        now = (tmp_path / "out" / "comparison.csv").read_bytes()
    build_report([indexed], tmp_path / "fresh")
    assert (tmp_path / "fresh" / "comparison.csv").read_bytes() == now


def test_the_first_runs_records_are_read_in_the_present_form() -> None:
    early = record() | {"memory": {"peak_rss_bytes": 2**30, "predict_peak_increase_bytes": 2**20}}
    for key in ("sweep", "baseline", "calibration", "preview", "artifact"):
        early.pop(key, None)
    now = migrated(dict(early))
    assert now["schema_version"] == SCHEMA_VERSION and set(KEYS) <= set(now)
    assert now["memory"]["both_alive"] == early["memory"] and "both models" in now["memory"]["reason"]
    row = record_row(now)
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
    assert read_record(tmp_path / "with.json")["layers"] == made["layers"]


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
    made = [record_row(one) for one in scale_records(1200)]
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
