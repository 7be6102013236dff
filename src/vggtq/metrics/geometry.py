"""Geometry of one scene against ground truth, and its mean over scenes. Points are not scored here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.geometry import decode_pose
from vggtq.metrics.depth import check_alignment, depth_metrics
from vggtq.metrics.pose import pose_metrics, relative_pose_errors


def evaluate(
    outputs: Mapping[str, Tensor],
    truth: GroundTruth,
    size_hw: tuple[int, int],
    depth_alignment: str = "median",
) -> dict[str, dict[str, Any]]:
    """Scores the outputs of one scene: `pose` where extrinsics are known, `depth` where depth is.

    outputs: pose_enc (S, 9), depth (S, H, W, 1). size_hw: height and width of the preprocessed frames.
    Parts without ground truth are absent. Raises ConfigError for an unknown alignment.
    """
    check_alignment(depth_alignment)
    parts: dict[str, dict[str, Any]] = {}
    if truth.extrinsics is not None:
        extrinsics, _ = decode_pose(outputs["pose_enc"].double(), size_hw)
        parts["pose"] = pose_metrics(*relative_pose_errors(extrinsics, truth.extrinsics))
    if truth.depth is not None:
        parts["depth"] = depth_metrics(outputs["depth"][..., 0], truth.depth, depth_alignment)
    return parts


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
    if isinstance(values[0], int):
        return sum(values)
    if isinstance(values[0], float):
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan
    if any(value != values[0] for value in values):
        raise ValueError(f"{key} differs between scenes: {sorted(set(map(str, values)))}")
    return values[0]
