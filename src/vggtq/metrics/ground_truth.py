"""Geometry of one scene against ground truth, its mean over scenes, and whether a change is more than noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.errors import check_choice
from vggtq.metrics.depth import depth_metrics
from vggtq.metrics.interval import Interval, paired_interval
from vggtq.metrics.metric import ALIGNMENTS
from vggtq.metrics.point_options import Points
from vggtq.metrics.points import counted, first_camera, point_metrics, true_points
from vggtq.metrics.pose import pose_metrics, relative_pose_errors
from vggtq.metrics.table import metrics
from vggtq.network.outputs import extrinsics_of


def evaluate(
    outputs: Mapping[str, Tensor],
    truth: GroundTruth,
    depth_alignment: str = "median",
    confidence: Tensor | None = None,
    icp: bool = False,
    points: Points | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores the outputs of one scene: `pose` where extrinsics are known, `depth` where depth is, `points` where both are.

    outputs: as `vggtq.network.outputs` has them. confidence: (S, H, W) of the FP32 model's points, which chooses the points
    that count; without it all do. points: what else point maps are compared by. Parts without ground truth, or without an
    output, are absent. Raises ConfigError for an unknown alignment.
    """
    check_choice("depth_alignment", depth_alignment, ALIGNMENTS)
    parts: dict[str, dict[str, Any]] = {}
    extrinsics = extrinsics_of(outputs)
    if truth.extrinsics is not None and extrinsics is not None:
        parts["pose"] = pose_metrics(*relative_pose_errors(extrinsics, truth.extrinsics))
    if truth.depth is not None and "depth" in outputs:
        parts["depth"] = depth_metrics(outputs["depth"][..., 0], truth.depth, depth_alignment)
    if "world_points" in outputs and (true := true_points(truth)) is not None:
        options = points or Points()
        mask = counted(true.shape[:-1], confidence, options)
        camera = first_camera(truth)
        parts["points"] = point_metrics(outputs["world_points"], true, mask, icp, camera, options)
    for metric in metrics("scene"):
        known = all(getattr(truth, name) is not None for name in metric.truth)
        if known and outputs.keys() >= set(metric.outputs) and metric.function:
            score = metric.function(outputs, truth)
            parts.setdefault("scene", {})[metric.key] = math.nan if score is None else float(score)
    return parts


def change_over_scenes(
    quantized: Sequence[Mapping[str, Mapping[str, Any]]], reference: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Interval]]:
    """Quantized minus reference of every metric: mean over scenes with a 95 % interval (`paired_interval`)."""
    changes: dict[str, dict[str, Interval]] = {}
    for part, scores in reference[0].items() if reference else ():
        for metric in (key for key, value in scores.items() if isinstance(value, float)):
            pairs = [
                (q[part][metric], r[part][metric])
                for q, r in zip(quantized, reference, strict=True)
                if part in r
            ]
            changes.setdefault(part, {})[metric] = paired_interval([q - r for q, r in pairs])
    return changes


def mean_over_scenes(scenes: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The mean of every metric over the scenes where it is defined, each scene with the same weight.

    Counts (`pairs`, `valid_pixels`, …) are summed; settings (`alignment`) must agree and are kept. `scenes`
    says how many scenes of a part had any defined metric; inf stays in the mean, so a failed scene counts.
    """
    parts = dict.fromkeys(part for scene in scenes for part in scene)
    means: dict[str, dict[str, Any]] = {}
    for part in parts:
        results = [scene[part] for scene in scenes if part in scene]
        means[part] = {key: _combine(key, [result[key] for result in results]) for key in results[0]}
        floats = ([value for value in result.values() if isinstance(value, float)] for result in results)
        means[part]["scenes"] = sum(not all(map(math.isnan, values)) for values in floats)
    return means


def _combine(key: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], int) and not isinstance(values[0], bool):
        return sum(values)
    if isinstance(values[0], float):
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan
    if any(value != values[0] for value in values):
        raise ValueError(f"{key} differs between scenes: {sorted(set(map(str, values)))}")
    return values[0]
