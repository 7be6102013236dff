"""Two models on the same scenes: distances of the quantized one from FP32 and from the truth, and its cost."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.config.schema import Config
from vggtq.data.scene import Scene
from vggtq.files.cache import TensorCache
from vggtq.machine.device import has_bf16
from vggtq.machine.identity import cpu_name, variables
from vggtq.machine.source_code import run_code
from vggtq.machine.timing import PairedLatency, Seconds, paired_latency, timed
from vggtq.metrics.scores import Scores
from vggtq.models.loading import LoadedModel
from vggtq.prepare.cache import OUTPUTS, cache_of
from vggtq.records.describe import describe_scene
from vggtq.records.of_run import (
    BaselineEntry,
    CachedScene,
    DatasetEntry,
    LatencyEntry,
    SceneEntry,
    Skipped,
)
from vggtq.records.picture import draw_comparison
from vggtq.records.predictions import Predictions
from vggtq.records.preview import Preview
from vggtq.records.schema import Record
from vggtq.run.engine import EngineRun
from vggtq.terminal.progress import Steps


class Baseline:
    """The reference side of a comparison. cache: of kind `vggtq.prepare.cache.OUTPUTS`."""

    def __init__(self, cache: TensorCache) -> None:
        self.cache = cache

    def outputs(
        self, images: Tensor, images_sha256: str, predict: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], bool]:
        """The FP32 outputs for `images` (S, 3, H, W), by `predict` unless they are known, and whether they were."""
        return self.cache.get(_identity(images, images_sha256, "outputs"), predict)

    def numbers(
        self, name: str, images: Tensor, images_sha256: str, measure: Callable[[], dict[str, float | None]]
    ) -> tuple[dict[str, float | None], bool]:
        """The numbers that `measure` returns about the FP32 model on these images, cached like its outputs;
        None values are kept.

        Bytes and seconds depend on all code that loads and predicts and on the allocator, not on the network alone.
        """

        def compute() -> dict[str, Tensor]:
            # float64 holds bytes exactly up to 8 PiB; NaN stands for None.
            return {
                key: torch.tensor(float("nan") if value is None else value, dtype=torch.float64)
                for key, value in measure().items()
            }

        identity = _identity(images, images_sha256, name) | {
            "runs": run_code(),
            "allocator": variables(("MALLOC_", "LD_PRELOAD", "PYTORCH_")),
        }
        numbers, cached = self.cache.get(identity, compute)
        return {
            key: None if value.isnan() else _number(float(value)) for key, value in numbers.items()
        }, cached


def _identity(images: Tensor, images_sha256: str, what: str) -> dict[str, Any]:
    return {"outputs": what, "images": images_sha256, "shape": list(images.shape)}


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value


log = logging.getLogger(__name__)


@dataclass
class Comparison:
    """The FP32 model and its quantized twin on the same scenes, one scene in memory at a time (and the first for timing)."""

    config: Config
    model: LoadedModel
    twin: nn.Module
    device: torch.device
    predictions: Predictions | None = None  # where they are kept, if they are
    engine: EngineRun | None = None  # the program that runs the quantized model, if not torch
    scenes: list[SceneEntry] = field(default_factory=list)
    cached: list[bool] = field(default_factory=list)  # scene by scene: the FP32 outputs came from the cache
    first: Scene | None = None
    # Of the picture's frames in the first scene: FP32 and quantized, (S, H, W).
    depths: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        self.scores = Scores(self.config.depth_alignment, self.config.points_icp, self.config.points)
        self.preview = Preview()
        self.baseline = Baseline(cache_of(OUTPUTS, self.config.cache, self.config.model, self.model))
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        return [*self._notes, *self.baseline.cache.notes]

    def add(self, scene: Scene, seconds: Seconds, steps: Steps) -> None:
        """Predicts one scene with the quantized model, and with FP32 where the cache has no outputs; enters the differences."""
        described = describe_scene(scene)
        seconds.setdefault("predict_reference", None)  # cached outputs needed no prediction

        def predict() -> dict[str, Tensor]:
            with timed(seconds, "predict_reference"):
                return self.model.predict(scene.images)

        reference, cached = self.baseline.outputs(scene.images, described.images_sha256, predict)
        self.cached.append(cached)
        steps.advance()
        with timed(seconds, "predict_quantized"):
            outputs = self._quantized(scene.images)
        steps.advance()
        self.scores.add(scene.name, outputs, reference, scene.truth)
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

    def _quantized(self, images: Tensor) -> dict[str, Tensor]:
        if self.engine is not None:
            return self.engine.predict(images)
        return self.model.predict(images, self.twin)

    def _keep_first(self, scene: Scene, reference: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        self.first = scene
        shapes = ", ".join(f"{name} {tuple(output.shape)}" for name, output in outputs.items())
        log.info("outputs of %s: %s", scene.name, shapes)
        if "depth" in reference:
            frames = min(self.config.picture_frames, len(scene.images))
            self.depths = tuple(maps["depth"][:frames, ..., 0].clone() for maps in (reference, outputs))

    def enter_(self, record: Record) -> None:
        """Enters dataset, baseline, fidelity, fidelity_scenes, geometry and metrics."""
        record.dataset = DatasetEntry(self.config.dataset.name, self.scenes)
        record.baseline = self._described_baseline()
        scored = self.scores.result()
        record.fidelity, record.geometry = scored.fidelity, scored.geometry
        record.fidelity_scenes, record.metrics = scored.fidelity_scenes, scored.metrics

    def _described_baseline(self) -> BaselineEntry:
        """The origin of the FP32 outputs, scene by scene."""
        scenes = [CachedScene(s.name, cached) for s, cached in zip(self.scenes, self.cached, strict=True)]
        computed = self.cached.count(False)
        reason = "all FP32 outputs came from the cache, so that predicting them took no time"
        return BaselineEntry(len(scenes) - computed, computed, None if computed else reason, scenes)

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

    def latency(self, steps: Steps) -> LatencyEntry | None:
        """Paired latency on the first scene against every reference, None with timing=off."""
        timing = self.config.timing
        if timing.mode == "off" or self.first is None:
            return None

        scene = self.first
        images = scene.images.to(self.device)[None]
        if self.engine is not None:
            self.engine.take(scene.images)
        references: dict[str, PairedLatency | Skipped] = {}
        for name, skipped in self._references():
            if skipped is not None:
                references[name] = Skipped(skipped)
                continue
            steps.step(f"timing against {name}", total=None)
            module = self.model.bfloat16_twin() if name == "bf16" else self.model.module

            def reference(module: Any = module, bf16: bool = name == "bf16") -> None:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    module(images)

            quantized = self.engine.run if self.engine is not None else lambda: self.twin(images)
            with torch.inference_mode():
                entry = paired_latency(reference, quantized, timing.rounds, timing.warmup, self.device)
            speed = entry.speedup, name.upper(), entry.speedup_q25, entry.speedup_q75
            log.info("speed  %.2f × %s (quartiles %.2f to %.2f)", *speed)
            references[name] = entry
        if self.engine is not None:
            steps.step(f"timing against float in {self.config.engine.name}", total=None)
            references["engine_float"] = self.engine.against_float(self.model.module, timing)
        size = list(scene.images.shape[-2:])
        return LatencyEntry(timing.rounds, scene.name, len(scene.images), size, references)

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
