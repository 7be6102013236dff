"""Scores of a quantized model's outputs, scene by scene: fidelity against FP32, geometry against ground truth.

A run scores what it has just predicted, `vggtq.rescore` what a run has kept, both by this class.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vggtq.data.scene import GroundTruth
from vggtq.metrics.fidelity import Fidelity, grade
from vggtq.metrics.geometry import change_over_scenes, evaluate, mean_over_scenes

Outputs = dict[str, Tensor]


@dataclass
class Scores:
    """Adds one scene after the other; `result` gives `fidelity`, `fidelity_scenes` and `geometry` of the record."""

    depth_alignment: str
    points_icp: bool
    geometry: list[dict[str, Any]] = field(default_factory=list)
    fidelity: Fidelity = field(default_factory=Fidelity)

    def add(
        self, name: str, quantized: Outputs, reference: Outputs, truth: GroundTruth, size_hw: tuple[int, int]
    ) -> None:
        """Outputs as from `LoadedModel.predict`; size_hw: height and width of the preprocessed frames."""
        self.fidelity.update(quantized, reference)
        confidence = reference.get("world_points_conf")
        pair = {
            side: evaluate(outputs, truth, size_hw, self.depth_alignment, confidence, self.points_icp)
            for side, outputs in (("quantized", quantized), ("reference", reference))
        }
        self.geometry.append({"scene": name, **pair})

    def result(self) -> dict[str, Any]:
        fidelity: dict[str, Any] = self.fidelity.result()
        for name, metrics in fidelity.items():
            if name != "pose":
                grades = {metric: grade(metric, value) for metric, value in metrics.items()}
                metrics["grades"] = {metric: g for metric, g in grades.items() if g is not None}
        quantized, reference = ([scene[key] for scene in self.geometry] for key in ("quantized", "reference"))
        geometry = {"quantized": mean_over_scenes(quantized), "reference": mean_over_scenes(reference)}
        geometry["change"] = change_over_scenes(quantized, reference)
        known = geometry | {"scenes": self.geometry} if geometry["reference"] else None
        errors = zip(self.geometry, self.fidelity.scenes, strict=True)
        by_scene = [{"scene": scene["scene"], "mse": mse} for scene, mse in errors]
        return {"fidelity": fidelity, "fidelity_scenes": by_scene, "geometry": known}
