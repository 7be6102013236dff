"""The charts of a report: what the Pareto chart joins by lines and where it writes names, their font, and old files."""

from pathlib import Path

import numpy as np
import pytest

from helpers.report_records import failed, fp32, record, row_of, write
from vggtq.network.outputs import OUTPUTS
from vggtq.report import build_report
from vggtq.report.charts.pareto import families
from vggtq.report.charts.sheet import draw
from vggtq.report.rows.groups import group_rows
from vggtq.report.words.texts import translator


@pytest.mark.usefixtures("undrawn")
def test_charts_of_an_older_report_are_removed(tmp_path: Path) -> None:
    (tmp_path / "comprehensive_visualizations_7.png").touch()
    build_report([write(tmp_path / "runs", [failed()])], tmp_path)
    assert not (tmp_path / "comprehensive_visualizations_7.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_without_a_chinese_font_charts_are_english_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vggtq.machine.fonts.find_cjk_font", lambda: None)
    build_report([write(tmp_path / "runs", [failed()])], tmp_path / "out", "zh")
    assert "charts are in English" in caplog.text
    assert "图表改用英文" in (tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8")


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
