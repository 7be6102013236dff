"""Which files a report writes, and that each holds every run under its own name and nothing that is no record."""

import csv
import io
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from helpers.report_records import (
    failed,
    fp32,
    read,
    record,
    strict,
    write,
)
from vggtq.report import COLUMNS, build_report, summary_of
from vggtq.report.build import make_report
from vggtq.report.documents.tables import escape
from vggtq.report.rows.collection import Collection
from vggtq.report.rows.sources import source_of


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


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_escaped_names_stay_in_their_cell(name: str) -> None:
    escaped = escape(name)
    assert len(escaped.splitlines()) <= 1 and "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", escaped)


def test_summary_tables_print_names_as_they_are() -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(summary_of(map(read, [record("[red]a[/red]"), failed("b", "no [bold]")])))
    console.print(summary_of([read(fp32())], "zh"))
    printed = console.export_text()
    assert "[red]a[/red]" in printed and "平均相对误差" in printed
    assert "no [bold]" not in printed  # why runs failed is told outside, one line each


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
