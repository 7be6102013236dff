"""One run from configuration to record: load, quantize, predict with both models, compare, measure.

Everything is imported by the time it is needed, so that a configuration mistake is reported before torch has been loaded.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from vggtq.config import Config, config_hash, plain, validated
from vggtq.describe import describe_layers, describe_model, describe_scene, describe_scheme, describe_size
from vggtq.errors import DataError
from vggtq.progress import Steps
from vggtq.quant.scheme import Scheme
from vggtq.record import empty_record, error_entry, write_record
from vggtq.sweep import SWEEP_VARIABLE

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vggtq.data.scene import Scene
    from vggtq.models.loading import LoadedModel
    from vggtq.quant.quantize import Quantization

log = logging.getLogger(__name__)

PICTURE = "comparison.png"


def run(cfg: DictConfig, folder: Path, command: str) -> dict[str, Any]:
    """Runs one configuration and returns its record, which also lies in `folder`, whatever happened.

    Exceptions end up in the record with status `failed`; only an interruption is raised again, after it has been recorded.
    """
    record = empty_record() | {"name": folder.name, "command": command, "started": _now()}
    record["sweep"] = os.environ.get(SWEEP_VARIABLE)
    started = time.perf_counter()
    try:
        record["config"] = plain(cfg)
        record["config_hash"] = config_hash(record["config"])
        with Steps() as steps:
            _run(validated(cfg), folder, record, steps)
        record["status"] = "ok"
    except Exception as error:
        record["error"] = error_entry(error)
    except BaseException as error:
        record["error"] = error_entry(error)
        raise
    finally:
        record["seconds"]["total"] = time.perf_counter() - started
        if record["picture"] is None:
            (folder / PICTURE).unlink(
                missing_ok=True
            )  # an earlier run's, which this record does not speak of
        write_record(record, folder)
    return record


def _run(config: Config, folder: Path, record: dict[str, Any], steps: Steps) -> None:
    """The one path: every line adds what it found to the record."""
    record["scheme"] = describe_scheme(config.scheme)
    import vggtq.environment as env

    device = env.resolve_device(config.device)
    env.make_deterministic(config.seed)
    record["environment"] = env.environment(device, config.seed)
    seconds: dict[str, float] = record["seconds"]

    from vggtq.models.loading import share_parameters
    from vggtq.quant.quantize import quantize_
    from vggtq.quant.select import select_layers

    select_layers(
        config.model.skeleton(), config.scheme
    )  # patterns that match nothing fail before weights are read
    scenes = _scenes(config.dataset)
    first = next(scenes)  # so do images that cannot be read
    steps.step(f"loading {config.model.name}")
    with _timed(seconds, "load"):
        model = config.model.load(device)
    record["model"] = describe_model(config.model.name, model)

    steps.step(f"quantizing to {config.scheme.label}")
    with _timed(seconds, "quantize"):
        twin = share_parameters(model.module)
        quantization = quantize_(twin, config.scheme, on_layer=steps.at)
    record |= describe_layers(quantization)
    record["size"] = describe_size(model.module, twin, quantization)
    _log_quantization(config.scheme, quantization, record["size"])

    comparison = Comparison(config, model, twin, device)
    for scene in chain([first], scenes):
        steps.step(f"predicting {scene.name}, {len(scene.images)} frames", total=2)
        comparison.add(scene, seconds, steps)
    record |= comparison.result()
    record["notes"] = [*quantization.notes, *comparison.notes]

    record["picture"] = comparison.draw(folder / PICTURE)
    with _timed(seconds, "timing"):
        record["latency"] = comparison.latency(steps)


@dataclass
class Comparison:
    """The FP32 model and its quantized twin on the same scenes, one scene in memory at a time (and the first for timing)."""

    config: Config
    model: "LoadedModel"
    twin: "nn.Module"
    device: "torch.device"
    scenes: list[dict[str, Any]] = field(default_factory=list)
    geometry: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    first: "tuple[Scene, Tensor, Tensor] | None" = (
        None  # scene, FP32 depth and quantized depth of the picture's frames
    )

    def __post_init__(self) -> None:
        from vggtq.metrics.fidelity import Fidelity

        self.fidelity = Fidelity()

    def add(self, scene: "Scene", seconds: dict[str, float], steps: Steps) -> None:
        """Predicts one scene with both models and enters the differences."""
        from vggtq.measure import PeakMemory
        from vggtq.metrics.geometry import evaluate

        peaks = {"reference": PeakMemory(self.device), "quantized": PeakMemory(self.device)}
        with peaks["reference"], _timed(seconds, "predict_reference"):
            reference = self.model.predict(scene.images)
        steps.advance()
        with peaks["quantized"], _timed(seconds, "predict_quantized"):
            outputs = self.model.predict(scene.images, self.twin)
        steps.advance()
        self.fidelity.update(outputs, reference)
        size = (scene.images.shape[-2], scene.images.shape[-1])
        pair = {
            name: evaluate(
                result,
                scene.truth,
                size,
                self.config.depth_alignment,
                reference.get("world_points_conf"),
                self.config.points_icp,
            )
            for name, result in (("quantized", outputs), ("reference", reference))
        }
        self.geometry.append({"scene": scene.name, **pair})
        self.scenes.append(describe_scene(scene))
        for note in scene.notes:
            log.info("%s: %s", scene.name, note)
            self.notes.append(f"{scene.name}: {note}")
        if self.first is None:
            self._keep_first(scene, reference, outputs, peaks)

    def _keep_first(
        self, scene: "Scene", reference: "dict[str, Tensor]", outputs: "dict[str, Tensor]", peaks: Any
    ) -> None:
        frames = min(self.config.picture_frames, len(scene.images))
        self.first = (
            scene,
            reference["depth"][:frames, ..., 0].clone(),
            outputs["depth"][:frames, ..., 0].clone(),
        )
        quantized, plain_model = peaks["quantized"], peaks["reference"]
        self.memory = {
            "peak_rss_bytes": quantized.peak_bytes,
            "predict_peak_increase_bytes": quantized.increase_bytes,
            "reference_predict_peak_increase_bytes": plain_model.increase_bytes,
            "cuda_peak_bytes": quantized.cuda_peak_bytes,
            "cuda_predict_increase_bytes": quantized.cuda_increase_bytes,
            "cuda_reference_predict_increase_bytes": plain_model.cuda_increase_bytes,
        }

    def result(self) -> dict[str, Any]:
        """dataset, fidelity, geometry and memory of the record."""
        from vggtq.metrics.fidelity import grade
        from vggtq.metrics.geometry import change_over_scenes, mean_over_scenes

        fidelity: dict[str, Any] = self.fidelity.result()
        for name, metrics in fidelity.items():
            if name != "pose":
                grades = {metric: grade(metric, value) for metric, value in metrics.items()}
                metrics["grades"] = {metric: g for metric, g in grades.items() if g is not None}
        quantized, reference = ([scene[key] for scene in self.geometry] for key in ("quantized", "reference"))
        geometry = {"quantized": mean_over_scenes(quantized), "reference": mean_over_scenes(reference)}
        geometry["change"] = change_over_scenes(quantized, reference)
        return {
            "dataset": {"name": self.config.dataset.name, "scenes": self.scenes},
            "fidelity": fidelity,
            "geometry": geometry | {"scenes": self.geometry} if geometry["reference"] else None,
            "memory": self.memory,
        }

    def draw(self, path: Path) -> str | None:
        """Writes the comparison picture; returns its name, or None if none was asked for."""
        if self.first is None or self.config.picture_frames == 0:
            return None
        from vggtq.picture import draw_comparison

        scene, reference, quantized = self.first
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
        import torch

        from vggtq.measure import paired_latency

        scene = self.first[0]
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
        import torch

        from vggtq.environment import cpu_name, has_bf16

        seen = set()
        for name in self.config.timing.references:
            resolved = "bf16" if name == "auto" else name
            if resolved in seen:
                continue
            seen.add(resolved)
            lacks = name == "auto" and not has_bf16(self.device)
            hardware = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()
            yield resolved, f"{hardware} does not multiply bfloat16 in hardware" if lacks else None


def _scenes(dataset: Any) -> "Iterator[Scene]":
    """The data set's scenes, at least one."""
    empty = True
    for scene in dataset.scenes():
        empty = False
        yield scene
    if empty:
        raise DataError(f"dataset {dataset.name} has no scenes; check its options")


def _log_quantization(scheme: Scheme, quantization: "Quantization", size: dict[str, Any]) -> None:
    mib = 2**20
    before, after = size["float32_bytes"] / mib, size["stored_bytes"] / mib
    log.info(
        "%s  %d layers quantized, %d kept; %.1f → %.1f MiB (%.2f ×)",
        scheme.label,
        len(quantization.layers),
        len(quantization.kept),
        before,
        after,
        size["compression_vs_fp32"],
    )
    for backend, layers in Counter(layer.backend for layer in quantization.layers).items():
        simulated = (
            " (dequantizes, then multiplies in float: its speed is simulated)"
            if backend == "reference"
            else ""
        )
        log.info("backend %s: %d layers%s", backend, layers, simulated)
    notes = Counter(note for layer in quantization.layers for note in layer.notes)
    for note, layers in notes.items():
        log.warning("%s (%d layers)", note, layers)


def _speed(entry: dict[str, Any], name: str) -> tuple[float, str, float, float]:
    return entry["speedup"], name.upper(), entry["speedup_q25"], entry["speedup_q75"]


@contextmanager
def _timed(seconds: dict[str, float], key: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - started


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
