"""Scores as the record has them. Imports nothing heavy: the report reads them too. Comments are the text of docs/record.md."""

from dataclasses import dataclass, field
from typing import Any

from vggtq.metrics.interval import Interval

Parts = dict[
    str, dict[str, Any]
]  # `pose`, `depth`, `points`, as far as their truth is known; each metric by name


def score(parts: Parts, part: str, metric: str) -> Any:
    """One of them; None where it was not measured."""
    found = parts.get(part)
    return found.get(metric) if isinstance(found, dict) else None


@dataclass
class OutputFidelity:
    """One output against the FP32 model's. Metrics stand beside the other keys, by name."""

    # `mae mse rmse max_abs_error psnr cosine relative_error ssim cross_entropy kl reference_entropy`; null where undefined.
    metrics: dict[str, float | None] = field(metadata={"inline": True})
    non_finite: int  # NaN and infinite values of the quantized model
    identical: bool  # bitwise
    grades: dict[str, str]  # `excellent`, `good`, `acceptable` or `poor`, for metrics that are graded


@dataclass
class Fidelity:
    """Against the FP32 model, over all scenes. Outputs stand beside `pose`, by name."""

    # `pose_enc depth depth_conf world_points …`
    outputs: dict[str, OutputFidelity] = field(metadata={"inline": True})
    # Degrees: `rotation_deg_mean`, `rotation_deg_max`, `translation_deg_mean`, `translation_deg_max`, `fov_deg_mean`; absent
    # for networks without a camera.
    pose: dict[str, float | None] | None = field(default=None, metadata={"optional": True})


@dataclass
class SceneErrors:
    """Squared errors of one scene."""

    scene: str  # its name
    mse: dict[str, float]  # by output


@dataclass
class SceneGeometry:
    """One scene against ground truth."""

    scene: str  # its name
    quantized: Parts  # metrics of the quantized model, by part and name
    reference: Parts  # those of the FP32 model


@dataclass
class Geometry:
    """Against ground truth. Both models: `pose {rra_5, …, auc_3, auc_30, …}`, `depth {abs_rel, inlier_1_03, rmse, …}`,
    `points {inlier_1_03, accuracy, completeness, overall, normal_consistency, …}`, as far as their truth is known.
    """

    quantized: Parts  # means over scenes
    reference: Parts  # the FP32 model's
    change: dict[str, dict[str, Interval]]  # quantized minus reference, per metric
    scenes: list[SceneGeometry]
