"""Two models on the same scenes: how far the quantized one is from FP32, and from the truth, and what it costs."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.baseline import Baseline
from vggtq.config import Config
from vggtq.data.scene import Scene
from vggtq.describe import describe_scene
from vggtq.environment import cpu_name, has_bf16
from vggtq.measure import paired_latency
from vggtq.models.loading import LoadedModel
from vggtq.picture import draw_comparison
from vggtq.predictions import Predictions
from vggtq.preview import Preview
from vggtq.progress import Steps
from vggtq.scoring import Scores

log = logging.getLogger(__name__)


@dataclass
class Comparison:
    """The FP32 model and its quantized twin on the same scenes, one scene in memory at a time (and the first for timing)."""

    config: Config
    model: LoadedModel
    twin: nn.Module
    device: torch.device
    predictions: Predictions | None = None  # where they are kept, if they are
    scenes: list[dict[str, Any]] = field(default_factory=list)
    cached: list[bool] = field(default_factory=list)  # scene by scene: the FP32 outputs came from the cache
    first: Scene | None = None
    depths: tuple[
        Tensor, ...
    ] = ()  # of the picture's frames in the first scene: FP32 and quantized, (S, H, W)

    def __post_init__(self) -> None:
        self.scores = Scores(self.config.depth_alignment, self.config.points_icp)
        self.preview = Preview()
        place = self.config.baseline_cache
        # The data class that made the network knows whatever shapes it besides its weights.
        folder = Path(place) if place else None
        self.baseline = Baseline(self.model, repr(self.config.model), self.device, folder)
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        return [*self._notes, *self.baseline.cache.notes]

    def add(self, scene: Scene, seconds: dict[str, float | None], steps: Steps) -> None:
        """Predicts one scene with the quantized model, and with FP32 where the cache has no outputs; enters the differences."""
        described = describe_scene(scene)
        seconds.setdefault("predict_reference", None)  # what came from the cache took no prediction

        def predict() -> dict[str, Tensor]:
            with timed(seconds, "predict_reference"):
                return self.model.predict(scene.images)

        reference, cached = self.baseline.outputs(scene.images, described["images_sha256"], predict)
        self.cached.append(cached)
        steps.advance()
        with timed(seconds, "predict_quantized"):
            outputs = self.model.predict(scene.images, self.twin)
        steps.advance()
        size = (scene.images.shape[-2], scene.images.shape[-1])
        self.scores.add(scene.name, outputs, reference, scene.truth, size)
        if self.predictions:
            self.predictions.add(scene, reference, outputs)
        self.scenes.append(described)
        for note in scene.notes:
            log.info("%s: %s", scene.name, note)
            self._notes.append(f"{scene.name}: {note}")
        if len(self.preview.scenes) < self.config.preview_scenes:
            self.preview.add(scene, reference, outputs)
        if self.first is None:
            self._keep_first(scene, reference, outputs)

    def _keep_first(self, scene: Scene, reference: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        self.first = scene
        if "depth" in reference:
            frames = min(self.config.picture_frames, len(scene.images))
            self.depths = tuple(maps["depth"][:frames, ..., 0].clone() for maps in (reference, outputs))

    def result(self) -> dict[str, Any]:
        """dataset, baseline, fidelity, fidelity_scenes and geometry of the record."""
        return {
            "dataset": {"name": self.config.dataset.name, "scenes": self.scenes},
            "baseline": self._described_baseline(),
            **self.scores.result(),
        }

    def _described_baseline(self) -> dict[str, Any]:
        """Where the FP32 outputs came from, scene by scene."""
        scenes = [
            {"name": scene["name"], "cached": cached}
            for scene, cached in zip(self.scenes, self.cached, strict=True)
        ]
        computed = self.cached.count(False)
        reason = (
            "all FP32 outputs came from the cache, so that predicting them took no time"
            if computed == 0
            else None
        )
        return {"cached": len(scenes) - computed, "computed": computed, "untimed": reason, "scenes": scenes}

    def draw(self, path: Path) -> str | None:
        """Writes the comparison picture; returns its name, or None if none was asked for."""
        if self.first is None or not self.depths or self.config.picture_frames == 0:
            return None
        scene, (reference, quantized) = self.first, self.depths
        weights = " (random weights)" if self.model.weights.random else ""
        caption = f"{self.config.model.name}{weights}, {scene.name}: FP32 against {self.config.scheme.label}"
        draw_comparison(
            path, scene.images[: len(reference)], reference, quantized, self.config.scheme.label, caption
        )
        return path.name

    def latency(self, steps: Steps) -> dict[str, Any] | None:
        """Paired latency on the first scene against every reference, None with timing=off."""
        timing = self.config.timing
        if timing.mode == "off" or self.first is None:
            return None

        scene = self.first
        images = scene.images.to(self.device)[None]
        references: dict[str, Any] = {}
        for name, skipped in self._references():
            if skipped is not None:
                references[name] = {"skipped": skipped}
                continue
            steps.step(f"timing against {name}", total=None)
            module = self.model.bfloat16_twin() if name == "bf16" else self.model.module

            def reference(module: Any = module, bf16: bool = name == "bf16") -> None:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    module(images)

            with torch.inference_mode():
                entry = paired_latency(
                    reference, lambda: self.twin(images), timing.rounds, timing.warmup, self.device
                )
            log.info("speed  %.2f × %s (quartiles %.2f to %.2f)", *_speed(entry, name))
            references[name] = entry
        size = list(scene.images.shape[-2:])
        return {
            "rounds": timing.rounds,
            "scene": scene.name,
            "frames": len(scene.images),
            "size": size,
            "references": references,
        }

    def _references(self) -> Iterator[tuple[str, str | None]]:
        """(fp32 or bf16, None or why it is skipped), each once."""

        seen = set()
        for name in self.config.timing.references:
            resolved = "bf16" if name == "auto" else name
            if resolved in seen:
                continue
            seen.add(resolved)
            lacks = name == "auto" and not has_bf16(self.device)
            hardware = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()
            yield resolved, f"{hardware} does not multiply bfloat16 in hardware" if lacks else None


def _speed(entry: dict[str, Any], name: str) -> tuple[float, str, float, float]:
    return entry["speedup"], name.upper(), entry["speedup_q25"], entry["speedup_q75"]


@contextmanager
def timed(seconds: dict[str, float | None], key: str) -> Iterator[None]:
    """Adds the seconds that the block took to seconds[key]."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[key] = (seconds.get(key) or 0.0) + time.perf_counter() - started
