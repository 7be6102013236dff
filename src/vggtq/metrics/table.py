"""The table of metrics, in the order in which reports show them. Whatever computes, labels, ranks or shows a metric reads it.

A new metric is one function and one entry: here, or in a plugin by `register_metric(Metric("key", "depth", function, …))`.
"""

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from vggtq.errors import ConfigError
from vggtq.metrics.formulas import (
    DELTA,
    INLIER,
    abs_rel,
    accuracy_below,
    area_under_curve,
    mean_of_finite,
    mean_of_medians,
    psnr,
    rmse,
    share_within,
    ssim,
)
from vggtq.metrics.metric import HIGHER, NEITHER, NOT_MEASURED, Metric, from_description

log = logging.getLogger(__name__)

# The limits of grades. KL is what grades the cross entropy: a cross entropy alone measures mostly the reference's own entropy
# (ln of the number of pixels for a flat map); only the excess over it is the quantization's. By Pinsker's inequality the total
# variation is at most √(KL/2), so within these limits, in nats, at most 2.2 %, 7.1 % and 22 % of the softmax's probability mass
# have moved.
SMALL, RELATIVE, DECIBELS = (0.001, 0.01, 0.1), (0.01, 0.05, 0.1), (40.0, 30.0, 20.0)
ALIKE, SIMILAR = (0.99, 0.95, 0.9), (0.98, 0.95, 0.9)
ACCURACY_DEG, AUC_DEG = (5, 15, 30), (3, 5, 10, 30)  # thresholds of RRA and RTA, and of AUC
EVERYWHERE = ("terminal", "table", "page", "paper")


def _auc(rotation: np.ndarray, translation: np.ndarray, most: int) -> float:
    return area_under_curve(np.maximum(rotation, translation), most)


# fmt: off
BUILT_IN = (
    Metric("stored_bytes", "size", None, "bytes a checkpoint has to keep", label=("size", "大小"), unit="MiB",
           shown=EVERYWHERE),
    Metric("resident_bytes", "size", None, "bytes as held in memory", unit="MiB"),
    Metric("float32_bytes", "size", None, "bytes of the same model in FP32", NEITHER, unit="MiB"),
    Metric("float16_bytes", "size", None, "bytes of the same model in FP16", NEITHER, unit="MiB"),
    Metric("compression_vs_fp32", "size", None, "FP32 bytes over stored bytes", HIGHER, ("× FP32", "× FP32"), decimals=2,
           shown=EVERYWHERE),
    Metric("compression_vs_fp16", "size", None, "FP16 bytes over stored bytes", HIGHER, ("× FP16", "× FP16"), decimals=2,
           shown=("table",)),
    Metric("bits_per_weight", "size", None, "stored bits over parameters", decimals=2),
    Metric("quantized_layers", "size", None, "layers", NEITHER, decimals=0),
    Metric("quantized_parameters", "size", None, "parameters", NEITHER, decimals=0),
    Metric("parameters", "size", None, "parameters", NEITHER, decimals=0),
    Metric("speedup", "latency", None, "median of paired ratios, time of the reference over quantized time", HIGHER,
           ("speed-up vs FP32", "相对 FP32 加速比"), decimals=2, shown=EVERYWHERE),
    Metric("mean_relative_error", "run", None, "arithmetic mean of the five relative errors",
           label=("mean rel. error", "平均相对误差"), shown=EVERYWHERE),

    Metric("mae", "output", lambda sums: sums.error.mean, "mean absolute error, units of the output", label=("MAE", "MAE"),
           best=0.0, limits=SMALL, shown=("table",)),
    Metric("mse", "output", lambda sums: sums.squared_error.mean, "mean squared error", label=("MSE", "MSE"), best=0.0),
    Metric("rmse", "output", lambda sums: sums.squared_error.mean ** 0.5, "root of the mean squared error",
           label=("RMSE", "RMSE"), best=0.0),
    Metric("max_abs_error", "output", lambda sums: sums.error.max, "largest absolute error",
           label=("max. error", "最大误差"), best=0.0),
    Metric("psnr", "output", lambda sums: psnr(sums.squared_error.mean, sums.range()),
           "peak signal-to-noise ratio, dB (empty if identical)", HIGHER, ("PSNR", "PSNR"), "dB", 1, float("inf"), DECIBELS,
           shown=("table",)),
    Metric("cosine", "output", lambda sums: sums.cosine(), "cosine similarity", HIGHER, ("cosine", "cosine"), decimals=5,
           best=1.0, limits=ALIKE, shown=("table",)),
    Metric("relative_error", "output", lambda sums: sums.relative_error(), "norm of the error over norm of the FP32 output",
           label=("relative error", "相对误差"), best=0.0, limits=RELATIVE, headline=True),
    Metric("ssim", "frame", ssim, "structural similarity, windowed", HIGHER, best=1.0, limits=SIMILAR),
    Metric("cross_entropy", "output", lambda sums: sums.entropy.mean + sums.kl.mean,
           "cross entropy against the FP32 output, nats", label=("cross entropy", "交叉熵")),
    Metric("reference_entropy", "output", lambda sums: sums.entropy.mean, "entropy of the FP32 output, nats", NEITHER),
    Metric("kl", "output", lambda sums: sums.kl.mean, "Kullback-Leibler divergence from the FP32 output, nats", best=0.0,
           limits=SMALL),

    Metric("rotation_deg_mean", "cameras", lambda sums: sums.rotation.mean, "degrees, against the FP32 model",
           label=("rotation error", "旋转误差"), unit="°", best=0.0, shown=("terminal", "table", "page")),
    Metric("rotation_deg_max", "cameras", lambda sums: sums.rotation.max, "degrees, against the FP32 model", unit="°",
           best=0.0),
    Metric("translation_deg_mean", "cameras", lambda sums: sums.translation.mean, "degrees, against the FP32 model", unit="°",
           best=0.0),
    Metric("translation_deg_max", "cameras", lambda sums: sums.translation.max, "degrees, against the FP32 model", unit="°",
           best=0.0),
    Metric("fov_deg_mean", "cameras", lambda sums: sums.fov.mean if sums.fov.count else None,
           "degrees, against the FP32 model", unit="°", best=0.0),

    *(Metric(f"auc_{k}", "pose", partial(_auc, most=k), f"area under the curve of the larger pose error up to {k}°", HIGHER,
             (f"AUC@{k}", f"AUC@{k}"), decimals=3, best=1.0, shown=EVERYWHERE if k != 10 else ())
      for k in AUC_DEG),
    *(Metric(f"rra_{k}", "pose", lambda rotation, _, k=k: accuracy_below(rotation, k),
             f"share of rotation errors below {k}°", HIGHER, best=1.0)
      for k in ACCURACY_DEG),
    *(Metric(f"rta_{k}", "pose", lambda _, translation, k=k: accuracy_below(translation, k),
             f"share of translation errors below {k}°", HIGHER, best=1.0)
      for k in ACCURACY_DEG),
    Metric("inlier_1_03", "depth", partial(share_within, factor=INLIER), "share of depths within a factor of 1.03", HIGHER,
           ("inlier@1.03", "inlier@1.03"), decimals=3, best=1.0, shown=EVERYWHERE),
    Metric("abs_rel", "depth", abs_rel, "mean relative depth error", label=("AbsRel", "AbsRel"), decimals=3, best=0.0,
           shown=EVERYWHERE),
    Metric("delta_1_25", "depth", partial(share_within, factor=DELTA), "share of depths within a factor of 1.25", HIGHER,
           best=1.0),
    Metric("rmse", "depth", rmse, "root of the mean squared depth error, scene units", best=0.0),
    Metric("accuracy", "points", lambda d: float(d.to_truth.mean()), "mean distance to the nearest true point, scene units",
           best=0.0),
    Metric("accuracy_median", "points", lambda d: float(np.median(d.to_truth)), "its median", best=0.0),
    Metric("completeness", "points", lambda d: float(d.to_predicted.mean()),
           "mean distance of true points to the nearest predicted one, scene units", best=0.0),
    Metric("completeness_median", "points", lambda d: float(np.median(d.to_predicted)), "its median", best=0.0),
    Metric("overall", "points", lambda d: float((d.to_truth.mean() + d.to_predicted.mean()) / 2),
           "mean of accuracy and completeness", best=0.0),
    Metric("normal_consistency", "points", lambda d: mean_of_finite(d.cosines), "mean |cosine| with the nearest true normal",
           HIGHER, best=1.0),
    Metric("normal_consistency_median", "points", lambda d: mean_of_medians(d.cosines, len(d.to_truth)),
           "the mean of its medians over predicted and over true points", HIGHER, best=1.0),
    Metric("inlier_1_03", "points", lambda d: float(np.mean(d.range_errors < INLIER - 1)),
           "share of corresponding points within 3 % of their distance from the first camera", HIGHER,
           ("point inlier@1.03", "点 inlier@1.03"), decimals=3, best=1.0, shown=("table", "page")),
    Metric("relative_error_median", "points", lambda d: float(np.median(d.relative_errors)),
           "median error of corresponding points over the scene's scale", label=("point error", "点误差"), decimals=3, best=0.0,
           shown=("table", "page")),
)
# fmt: on
_metrics = {metric.name: metric for metric in BUILT_IN}
_adopted: set[str] = set()  # known from a record alone


def register_metric(metric: Metric) -> Metric:
    """Enters a metric from outside of this package, for the whole process. ConfigError for a name that is taken."""
    if metric.function is None:
        raise ConfigError(f"metric {metric.key}: give the function that computes it")
    if metric.scope in NOT_MEASURED:
        raise ConfigError(
            f"metric {metric.key}: scope={metric.scope} is measured by vggtq itself; see SCOPES for the others"
        )
    if not _is_free(metric):
        raise ConfigError(f"metric {metric.name} is there already; choose another key")
    _adopted.discard(metric.name)
    _metrics[metric.name] = metric
    return metric


def _is_free(metric: Metric) -> bool:
    """A module that failed while it was imported may be imported again."""
    there = _metrics.get(metric.name)
    return there is None or there.function is None or there.function.__module__ == metric.function.__module__


def adopt(descriptions: Iterable[Mapping[str, Any]]) -> None:
    """Enters the metrics from outside that a record describes, so that reports need not have them."""
    for values in descriptions:
        try:
            metric = from_description(values)
        except (ConfigError, TypeError, AttributeError) as error:
            log.warning("a record describes a metric that cannot be shown: %s", error)
            continue
        if metric.name not in _metrics or metric.name in _adopted:
            _metrics[metric.name] = metric
            _adopted.add(metric.name)


def metrics(*scopes: str) -> list[Metric]:
    """All metrics of some scopes, or of all, in the order of the table."""
    return [metric for metric in _metrics.values() if not scopes or metric.scope in scopes]


def named(name: str) -> Metric:
    """The metric with this name. KeyError if there is none."""
    return _metrics[name]


def from_outside() -> list[Metric]:
    """The metrics that plugins of this process registered."""
    built_in = {metric.name for metric in BUILT_IN}
    return [metric for metric in _metrics.values() if metric.name not in built_in and metric.function]


HEADLINE = next(metric for metric in BUILT_IN if metric.headline)
