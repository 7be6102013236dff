"""Milliseconds that runs can be compared by: each run's speed-up times one FP32 time for all of them.

FP32 itself takes up to four times as long in one run as in another on the same machine, as other work comes and goes. The ratio
within a run's pairs does not see that; so milliseconds of different runs are made of it.
"""

from collections.abc import Sequence
from statistics import median

from vggtq.report.rows.recommend import is_reference
from vggtq.report.rows.row import Row


def enter_times(rows: Sequence[Row]) -> None:
    """Adds `fp32.common_ms` and `fp32.comparable_ms_*` to the timed rows of one group, for each thread count by itself."""
    timed = [row for row in rows if row["fp32.speedup"] and row["fp32.reference_ms_median"]]
    for threads in {row["threads"] for row in timed}:
        members = [row for row in timed if row["threads"] == threads]
        common = median(row["fp32.reference_ms_median"] for row in members)
        for row in members:
            row["fp32.common_ms"] = common
            for end, ratio in _ratios(row).items():
                row[f"fp32.comparable_ms_{end}"] = common / ratio if ratio else None


def _ratios(row: Row) -> dict[str, float | None]:
    """The speed-up by the quartile of the time that it makes; of FP32 itself 1."""
    if is_reference(row):
        return dict.fromkeys(("q25", "median", "q75"), 1.0)
    return {
        "q25": row["fp32.speedup_q75"],
        "median": row["fp32.speedup"],
        "q75": row["fp32.speedup_q25"],
    }


def common_times(rows: Sequence[Row]) -> list[float]:
    """The FP32 times that milliseconds of these rows are made of, one for each thread count."""
    return sorted({row["fp32.common_ms"] for row in rows if row["fp32.common_ms"] is not None})


def measured_times(rows: Sequence[Row]) -> list[float]:
    """The times of FP32 in each of these runs, ascending."""
    return sorted(row["fp32.reference_ms_median"] for row in rows if row["fp32.common_ms"] is not None)
