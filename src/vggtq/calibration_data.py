"""The images that a recipe is calibrated on: how they reach the model, and that none of them is evaluated."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.config import Calibration
from vggtq.data.scene import Scene
from vggtq.errors import DataError


@dataclass
class Samples:
    """The calibration scenes, in memory. `seen` holds the SHA-256 of every image."""

    name: str
    scenes: list[Tensor] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, calibration: Calibration) -> "Samples":
        """Reads or renders them. Raises DataError."""
        samples = cls(calibration.name)
        for scene in calibration.dataset.scenes():
            samples.scenes.append(scene.images)
            samples.seen |= {_digest(image) for image in scene.images}
        if not samples.scenes:
            raise DataError(f"calibration {calibration.name} has no scenes; check calibration.dataset")
        return samples

    def run(self, model: nn.Module) -> None:
        """Shows all samples to the model."""
        device = next(iter(model.parameters())).device
        for images in self.scenes:
            model(images.to(device)[None])

    def check_disjoint(self, scene: Scene) -> None:
        """Raises DataError if an image of an evaluated scene was calibrated on."""
        for index, image in enumerate(scene.images):
            if _digest(image) in self.seen:
                raise DataError(
                    f"image {index} of scene {scene.name} is among the calibration samples: what a recipe was fitted on says "
                    f"nothing about it; use calibration=rooms or other images"
                )

    def digest(self) -> str:
        """SHA-256 over all images in their order."""
        together = "".join(_digest(image) for scene in self.scenes for image in scene)
        shapes = [tuple(scene.shape) for scene in self.scenes]
        return hashlib.sha256(f"{shapes} {together}".encode()).hexdigest()

    def describe(self, passes: int) -> dict[str, Any]:
        """The record's `calibration`. passes: how often the model ran on all samples."""
        together = hashlib.sha256("".join(sorted(self.seen)).encode()).hexdigest()
        frames = sum(len(images) for images in self.scenes)
        return {
            "name": self.name,
            "scenes": len(self.scenes),
            "frames": frames,
            "sha256": together,
            "passes": passes,
        }


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().to(torch.float32).numpy().tobytes()).hexdigest()
