"""Geometry of one scene against ground truth, its mean over scenes, and what of a change is more than noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.geometry import decode_pose
from vggtq.metrics.depth import check_alignment, depth_metrics
from vggtq.metrics.interval import paired_interval
from vggtq.metrics.points import confident, point_metrics, true_points
from vggtq.metrics.pose import pose_metrics, relative_pose_errors


def evaluate(
    outputs: Mapping[str, Tensor],
    truth: GroundTruth,
    size_hw: tuple[int, int],
    depth_alignment: str = "median",
    confidence: Tensor | None = None,
    icp: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores the outputs of one scene: `pose` where extrinsics are known, `depth` where depth is, `points` where both are.

    outputs: pose_enc (S, 9), depth (S, H, W, 1), world_points (S, H, W, 3). size_hw: height and width of the preprocessed
    frames. confidence: (S, H, W) of the FP32 model's points, which chooses the points that count; without it all do.
    Parts without ground truth are absent. Raises ConfigError for an unknown alignment.
    """
    check_alignment(depth_alignment)
    parts: dict[str, dict[str, Any]] = {}
    if truth.extrinsics is not None:
        extrinsics, _ = decode_pose(outputs["pose_enc"].double(), size_hw)
        parts["pose"] = pose_metrics(*relative_pose_errors(extrinsics, truth.extrinsics))
    if truth.depth is not None:
        parts["depth"] = depth_metrics(outputs["depth"][..., 0], truth.depth, depth_alignment)
    if "world_points" in outputs and (points := true_points(truth)) is not None:
        mask = (
            torch.ones(points.shape[:-1], dtype=torch.bool) if confidence is None else confident(confidence)
        )
        parts["points"] = point_metrics(outputs["world_points"], points, mask, icp)
    return parts


def change_over_scenes(
    quantized: Sequence[Mapping[str, Mapping[str, Any]]], reference: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Quantized minus reference of every metric: mean over scenes with a 95 % interval (`paired_interval`)."""
    changes: dict[str, dict[str, Any]] = {}
    for part, metrics in reference[0].items() if reference else ():
        for metric in (key for key, value in metrics.items() if isinstance(value, float)):
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
    return {part: _mean_of_part([scene[part] for scene in scenes if part in scene]) for part in parts}


def _mean_of_part(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    combined = {key: _combine(key, [result[key] for result in results]) for key in results[0]}
    scored = sum(any(_is_defined(value) for value in result.values()) for result in results)
    return {**combined, "scenes": scored}


def _is_defined(value: Any) -> bool:
    return isinstance(value, float) and not math.isnan(value)


def _combine(key: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], int) and not isinstance(values[0], bool):
        return sum(values)
    if isinstance(values[0], float):
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan
    if any(value != values[0] for value in values):
        raise ValueError(f"{key} differs between scenes: {sorted(set(map(str, values)))}")
    return values[0]
