"""Every column of the comparison, what it means and its unit; a dotted name follows the path in the record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vggtq.errors import ConfigError, did_you_mean
from vggtq.metrics.metric import FIDELITY, REFERENCES, SCOPES, TABLED, TRUTH, Metric
from vggtq.metrics.table import BUILT_IN, metrics
from vggtq.network.outputs import OUTPUTS

MIB = 2**20
# Of one process each, which loads a model and predicts the first scene once.
PEAKS = {
    "peak_rss_bytes": "highest resident memory while loading and predicting",
    "rss_before_load_bytes": "resident memory of Python, torch and the images before loading",
    "cuda_peak_bytes": "most that torch had allocated on the GPU",
}
MEMORY = {
    f"memory.{side}.{name}": f"bytes, {whose} in a process of its own: {meaning}"
    for side, whose in (("quantized", "quantized model"), ("reference", "FP32 model"))
    for name, meaning in PEAKS.items()
}
ABOUT = {
    "group": "comparison group: 1 is the main one, 0 holds runs that failed before theirs was known",
    "title": "label, made unique within its group",
    "label": "name of the scheme, for tables",
    "name": "name of the run",
    "command": "repeats the run",
    "status": "ok or failed",
    "error": "type and message of a failed run",
    "started": "UTC, ISO 8601",
    "total_s": "seconds the whole run took",
    "config_hash": "first 12 hex digits of the configuration's SHA-256",
    "model": "name",
    "weights": "random, or where they came from",
    "fingerprint": "of the weights",
    "dataset": "name",
    "scenes": "number of scenes",
    "frames": "number of frames, all scenes together",
    "scenes_hash": "12 hex digits over every scene's images, frames and size",
    "device": "as the run used it",
    "hardware": "name of that GPU or CPU",
    "threads": "CPU threads",
    "scheme": "name",
    "family": "label without bits: runs that differ in bits, or in the budget for them, are one curve",
    "format": "number format of the weights",
    "bits": "per weight code; empty where they were found layer by layer",
    "mean_bits": "mean over the weights, where bits were found",
    "symmetric": "true or false",
    "granularity": "what shares one scale",
    "group_size": "weights per scale, where grouped",
    "activation_bits": "empty: float activations",
    "calibration": "what the recipe was fitted on, as in calibration=; empty: it looks at no data",
    "engine": "what ran the quantized model, where that was not torch; its sizes are those of the exported file",
    "arithmetic": "what products of quantized layers were computed with in that engine",
    "calibrated_elsewhere": "true: on rendered scenes, while the data are photographs",
}
CHANGE = {
    "mean": "quantized minus FP32, mean over scenes",
    "low": "lower end of its 95 % t interval; empty with fewer than three scenes",
    "high": "upper end of its 95 % t interval",
    "scenes": "scenes that it is a mean over",
    "p": "of the paired t test, two-sided, uncorrected",
    "verdict": "better or worse: the interval and Holm's correction over the group's rows allow it; open: no difference can be "
    "told; few: too few scenes to tell",
}
SIZES = tuple(metric.key for metric in BUILT_IN if metric.scope == "size")
_COUNTS = ("group", "scenes", "frames", "threads", "bits", "group_size", "activation_bits", "non_finite")


def described(known: Iterable[Metric]) -> dict[str, str]:
    """Every column of a comparison that has these metrics, and what it means."""
    by_scope: dict[str, list[Metric]] = {}
    for metric in known:
        by_scope.setdefault(metric.scope, []).append(metric)
    columns = ABOUT | {metric.key: metric.meaning for metric in by_scope["size"]}
    columns["simulated"] = "some layer ran as dequantize-then-float: its speed is not that of the scheme"
    columns |= _latency(by_scope["latency"]) | MEMORY
    columns |= {metric.key: metric.meaning for metric in by_scope["run"]}
    columns["grade"] = "worst of the outputs' grades on relative error"
    columns["loss"] = (
        "within: every headline score against ground truth is shown to lose less than the tolerance of production; beyond: one "
        "measurably loses more; open: these scenes cannot tell; empty: no ground truth"
    )
    columns["non_finite"] = "NaN or infinite values in the outputs"
    of_outputs = [metric for scope in FIDELITY for metric in by_scope.get(scope, [])]
    for output in OUTPUTS:
        columns |= {f"{output}.{m.key}": m.meaning for m in of_outputs if m.measures(output)}
        columns[f"{output}.non_finite"] = "NaN or infinite values"
        columns[f"{output}.identical"] = "true if equal to the FP32 output"
        columns[f"{output}.grade"] = "grade on relative error"
    columns |= {metric.name: metric.meaning for metric in by_scope["cameras"]}
    return columns | _against_truth([metric for scope in TRUTH for metric in by_scope.get(scope, [])])


def _latency(speeds: Sequence[Metric]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for reference in REFERENCES:
        name = reference.upper()
        for metric in speeds:
            columns[f"{reference}.{metric.key}"] = f"{metric.meaning}, {name}"
            columns[f"{reference}.{metric.key}_q25"] = "lower quartile of those ratios"
            columns[f"{reference}.{metric.key}_q75"] = "upper quartile of those ratios"
        for side in ("reference", "quantized"):
            for statistic in ("median", "q25", "q75"):
                columns[f"{reference}.{side}_ms_{statistic}"] = (
                    f"milliseconds, {side} side of the {name} pairs"
                )
    columns["fp32.common_ms"] = (
        "milliseconds of FP32, one time for all runs of the group with as many threads: the median of theirs"
    )
    for statistic in ("median", "q25", "q75"):
        columns[f"fp32.comparable_ms_{statistic}"] = (
            "milliseconds by which runs can be compared: fp32.common_ms over the run's own speed-up"
        )
    return columns


def _against_truth(known: Sequence[Metric]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for side in ("quantized", "reference"):
        columns |= {f"geometry.{side}.{m.name}": f"against ground truth: {m.meaning}" for m in known}
    for metric in known:
        columns |= {f"geometry.change.{metric.name}.{end}": meaning for end, meaning in CHANGE.items()}
    return columns


COLUMNS = described(BUILT_IN)  # rows have all of these, and whatever else was measured


def columns() -> dict[str, str]:
    """COLUMNS, and those of metrics from outside of this package."""
    return COLUMNS | described(metrics())


def shown(
    place: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()
) -> list[tuple[Metric, str]]:
    """The metrics that one of PLACES shows, each with its column; those from outside, and against ground truth, where a row has
    a value. With `names`, these metrics instead. Raises ConfigError for a name that no metric has.
    """
    if names:
        return named(names)
    found = [(metric, column) for metric in metrics() if place in metric.shown for column in _tabled(metric)]
    found.sort(key=lambda each: _place(*each))
    return [
        (m, column)
        for m, column in found
        if (column in COLUMNS and m.scope not in TRUTH) or any(row.get(column) is not None for row in rows)
    ]


def named(names: Sequence[str]) -> list[tuple[Metric, str]]:
    """The metrics of these names, each with its column, in the order of the names: those of COLUMNS, or short ones such as
    pose.auc_5 and depth.mae. Raises ConfigError for a name that no metric has.
    """
    known: dict[str, tuple[Metric, str]] = {}
    for metric in metrics():
        known |= {column: (metric, column) for column in metric.columns}
        if metric.scope not in FIDELITY:
            known[metric.name] = (metric, metric.columns[0])
    for name in names:
        if name not in known:
            raise ConfigError(f"columns: {name} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return [known[name] for name in names]


def shown_truth(place: str, rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Those of them that are measured against ground truth."""
    return [metric for metric, _ in shown(place, rows) if metric.scope in TRUTH]


def _place(metric: Metric, column: str) -> tuple[int, int]:
    """By scope, and all that is known of one output together."""
    if metric.scope in FIDELITY:
        return list(SCOPES).index(FIDELITY[0]), OUTPUTS.index(column.partition(".")[0])
    return list(SCOPES).index(metric.scope), 0


def _tabled(metric: Metric) -> Sequence[str]:
    if metric.scope in FIDELITY:
        chosen = [f"{output}.{metric.key}" for output in TABLED if metric.measures(output)]
        return chosen or metric.columns
    return metric.columns[:1]


INTEGERS = (
    *_COUNTS,
    *(
        metric.key
        for metric in BUILT_IN
        if metric.scope == "size" and (metric.unit == "MiB" or metric.decimals == 0)
    ),
    *MEMORY,
    *(f"{output}.non_finite" for output in OUTPUTS),
)
