"""Which changes against FP32 a report tells from noise, and how it shows their intervals."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from helpers.report_records import choices, fp32, record, row_of, write
from vggtq.metrics.interval import Interval, p_of_at_most, paired_interval
from vggtq.report import build_report
from vggtq.report.documents.tables import groups_table
from vggtq.report.page.data import page_data
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import TOLERANCE
from vggtq.report.rows.verdicts import losses
from vggtq.report.words.texts import translator
from vggtq.report.words.wording import beside, explain, interval


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


def test_a_small_change_shows_its_digits_and_its_side_of_zero() -> None:
    assert (
        beside(0.1, 0.1, Interval(-0.0004, -0.0009, 0.0001, 4)) == "0.100 (0.100) −0.0004 [−0.0009, +0.0001]"
    )
    assert beside(0.1, 0.1, Interval(0.0, 0.0, 0.0, 4)) == "0.100 (0.100) 0 [0, 0]"
    assert interval(-0.00011, -0.00022, -0.000004) == ["−0.000110", "−0.000220", "−0.000004"]
    assert interval(-0.02, -0.03, -0.01) == ["−0.020", "−0.030", "−0.010"]
