"""Records as files and as dataclasses: the same keys and values, of every version that ever was."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from helpers.report_records import read, record
from vggtq.machine.timing import PairedLatency
from vggtq.records.files import record_in, write_record
from vggtq.records.of_run import Skipped
from vggtq.records.plain import nothing, plain
from vggtq.records.reading import read_record
from vggtq.records.reference import comments_of, reference
from vggtq.records.schema import SCHEMA_VERSION, Record
from vggtq.report import build_report

ROOT = Path(__file__).parents[2]
FIXTURES = sorted((ROOT / "tests/fixtures/records").glob("*.json"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_files_of_earlier_versions_are_written_as_they_were_read(path: Path, tmp_path: Path) -> None:
    values = json.loads(path.read_text("utf-8"))
    found = read_record(path)
    written = json.loads(write_record(found, tmp_path).read_text("utf-8"))
    assert written["schema_version"] == SCHEMA_VERSION
    same = {key: value for key, value in values.items() if key not in ("schema_version", "memory")}
    assert lacking({key: written[key] for key in same}, same) == []
    assert [key for key in written if key in values] == list(values)


def lacking(written: Any, values: Any, path: str = "") -> list[str]:
    """Places where `written` has another value than the file had; keys that the file did not have are null."""
    if isinstance(values, dict):
        added = [f"{path}.{key}" for key, value in written.items() if key not in values and known(value)]
        return added + [
            line for key in values for line in lacking(written.get(key), values[key], f"{path}.{key}")
        ]
    if isinstance(values, list) and isinstance(written, list) and len(values) == len(written):
        return [line for pair in zip(written, values, strict=True) for line in lacking(*pair, f"{path}[]")]
    return [] if written == values else [path]


def known(value: Any) -> bool:
    return any(map(known, value.values())) if isinstance(value, dict) else value not in (None, [])


def test_there_is_a_file_of_each_version() -> None:
    versions = {json.loads(path.read_text("utf-8"))["schema_version"] for path in FIXTURES}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


def test_the_first_version_keeps_its_numbers_apart() -> None:
    found = read_record(ROOT / "tests/fixtures/records/version_1.json")
    assert found.memory and found.memory.both_alive and "peak_rss_bytes" in found.memory.both_alive
    assert found.memory.quantized is None and "both models" in str(found.memory.reason)
    assert found.baseline is None and found.preview is None


def test_a_report_of_all_versions_has_every_run(tmp_path: Path) -> None:
    for path in FIXTURES:
        (tmp_path / "runs" / path.stem).mkdir(parents=True)
        shutil.copy(path, tmp_path / "runs" / path.stem / "result.json")
    report = build_report([tmp_path / "runs"], tmp_path / "report")
    counts = report.counts()
    # One of them was refused before it started, which stands apart.
    assert (counts["runs"], counts["failed"], counts["unreadable"]) == (len(FIXTURES) - 1, 0, 0)
    assert counts["refused"] == 1
    assert all(row["stored_bytes"] and row["grade"] for row in report.rows if row["status"] == "ok")


def test_attributes_are_what_the_file_says() -> None:
    found = read_record(ROOT / "tests/fixtures/records/version_2_bits_found.json")
    values = json.loads((ROOT / "tests/fixtures/records/version_2_bits_found.json").read_text("utf-8"))
    assert found.allocation and found.scheme and found.fidelity and found.latency and found.geometry
    assert found.allocation.solver.status == values["allocation"]["solver"]["status"]
    assert found.scheme.bits is None and found.scheme.mean_bits == values["scheme"]["mean_bits"]
    depth = values["fidelity"]["depth"]
    assert found.fidelity.outputs["depth"].metrics["mae"] == depth["mae"]
    assert found.fidelity.outputs["depth"].grades == depth["grades"]
    fp32, bf16 = (found.latency.references[name] for name in ("fp32", "bf16"))
    assert isinstance(fp32, PairedLatency) and fp32.speedup > 0
    assert isinstance(bf16, Skipped) and "bfloat16" in bf16.skipped
    change = values["geometry"]["change"]["pose"]["auc_30"]
    assert found.geometry.change["pose"]["auc_30"].mean == change["mean"]


def test_keys_of_a_later_form_are_kept(tmp_path: Path) -> None:
    later = record() | {"mood": {"a": [1]}}
    later["size"] |= {"sparse_bytes": 7}
    later["fidelity"]["depth"]["my_metric"] = 0.25
    write_record(read(later), tmp_path)
    written = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert written["mood"] == {"a": [1]} and written["size"]["sparse_bytes"] == 7
    assert written["fidelity"]["depth"]["my_metric"] == 0.25
    again = record_in(tmp_path)
    assert again is not None and again.size is not None and plain(again.size) == written["size"]


@pytest.mark.parametrize("odd", ["nonsense", 3, [], [1], None, {}])
def test_whatever_stands_in_a_place_is_read(odd: object) -> None:
    made = record()
    for field in fields(Record):
        found = read(made | {field.name: odd})
        assert isinstance(found, Record)
        if isinstance(odd, str | int):
            assert getattr(found, field.name) in (odd, None, [], {})
    assert read({}).notes == [] and nothing(PairedLatency).speedup is None


def test_undefined_numbers_are_null() -> None:
    odd = {"a": float("nan"), "b": [float("-inf"), 1.5], "c": (1, True)}
    assert plain(odd) == {"a": None, "b": [None, 1.5], "c": [1, True]}


def test_the_documentation_is_what_the_comments_say() -> None:
    page = (ROOT / "docs/record.md").read_text("utf-8")
    assert page == reference(), "docs/record.md is out of date: make docs writes it anew"


def test_every_field_says_what_it_is() -> None:
    tables = [line.split(" | ") for line in reference().splitlines() if line.startswith("| ")]
    assert [cells[0] for cells in tables if not cells[-1].strip(" |")] == []
    assert comments_of(Skipped) == {"skipped": "why"}
