"""Scores of a quantized model's outputs, scene by scene: fidelity against FP32, geometry against ground truth.

A run scores its new predictions, `vggtq.rescore` those that a run has kept; both use this class.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.metrics.fidelity import Fidelity
from vggtq.metrics.ground_truth import change_over_scenes, evaluate, mean_over_scenes
from vggtq.metrics.metric import FIDELITY
from vggtq.metrics.point_options import Points
from vggtq.metrics.results import Fidelity as FidelityResult
from vggtq.metrics.results import Geometry, OutputFidelity, SceneErrors, SceneGeometry
from vggtq.metrics.table import from_outside, metrics
from vggtq.network.outputs import confidence_of

Outputs = dict[str, Tensor]


@dataclass
class Scores:
    """Adds one scene after the other; `result` gives `fidelity`, `fidelity_scenes`, `geometry`, `metrics` of the record."""

    depth_alignment: str
    points_icp: bool
    points: Points = field(default_factory=Points)
    geometry: list[SceneGeometry] = field(default_factory=list)
    fidelity: Fidelity = field(default_factory=Fidelity)

    def add(self, name: str, quantized: Outputs, reference: Outputs, truth: GroundTruth) -> None:
        """Outputs as from `LoadedModel.predict`."""
        self.fidelity.update(quantized, reference)
        confidence = confidence_of(reference, points=True)
        pair = {
            side: evaluate(outputs, truth, self.depth_alignment, confidence, self.points_icp, self.points)
            for side, outputs in (("quantized", quantized), ("reference", reference))
        }
        self.geometry.append(SceneGeometry(name, **pair))

    def result(self) -> "Scored":
        errors = zip(self.geometry, self.fidelity.scenes, strict=True)
        by_scene = [SceneErrors(scene.scene, mse) for scene, mse in errors]
        described = [metric.described() for metric in from_outside()] or None
        quantized, reference = [s.quantized for s in self.geometry], [s.reference for s in self.geometry]
        means = mean_over_scenes(quantized), mean_over_scenes(reference)
        change = change_over_scenes(quantized, reference)
        geometry = Geometry(*means, change, self.geometry) if means[1] else None
        return Scored(_fidelity(self.fidelity.result()), by_scene, geometry, described)


@dataclass(frozen=True)
class Scored:
    """The scores in the record. geometry: None without ground truth. metrics: those from outside of vggtq."""

    fidelity: FidelityResult
    fidelity_scenes: list[SceneErrors]
    geometry: Geometry | None
    metrics: list[dict[str, Any]] | None


def _fidelity(measured: dict[str, dict[str, Any]]) -> FidelityResult:
    pose = measured.pop("pose", None)
    return FidelityResult({name: _output(values) for name, values in measured.items()}, pose)


def _output(values: dict[str, Any]) -> OutputFidelity:
    non_finite, identical = values.pop("non_finite"), values.pop("identical")
    grades = {metric.key: metric.grade(values.get(metric.key)) for metric in metrics(*FIDELITY)}
    graded = {metric: found for metric, found in grades.items() if found is not None}
    return OutputFidelity(values, non_finite, identical, graded)
