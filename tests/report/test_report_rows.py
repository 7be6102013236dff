"""What a report takes from one record: errors, times, bytes and intervals, also of old and broken records."""

from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from helpers.report_records import change, failed, fp32, record, row_of
from vggtq.network.outputs import OUTPUTS
from vggtq.report import COLUMNS
from vggtq.report.charts.sheet import draw
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.row import frame_of, known_quartiles
from vggtq.report.words.texts import translator
from vggtq.report.words.wording import group_notes


def test_headline_error_is_the_mean_over_all_five_outputs_or_nothing() -> None:
    errors = dict(zip(OUTPUTS, (0.0, 0.1, 0.2, 0.3, 0.4), strict=True))
    row = row_of(record(error=errors))
    assert row["mean_relative_error"] == pytest.approx(0.2)
    assert row["grade"] == "poor"
    missing = row_of(record(fidelity__depth__relative_error=None))
    assert missing["mean_relative_error"] is None
    infinite = row_of(record(fidelity__depth__non_finite=3))
    assert infinite["mean_relative_error"] is None and infinite["non_finite"] == 3


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
