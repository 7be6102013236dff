"""One run from configuration to record: load, quantize, predict with both models, compare, measure.

Everything is imported by the time it is needed, so that a configuration mistake is reported before torch has been loaded.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from vggtq import interruption
from vggtq.config import Config, config_hash, plain, validated
from vggtq.describe import describe_layers, describe_model, describe_scheme, describe_size
from vggtq.errors import DataError, VggtqError
from vggtq.exhausted import exhausted
from vggtq.inputs import describe_inputs
from vggtq.journal import Journal
from vggtq.progress import Steps
from vggtq.quant.scheme import Scheme
from vggtq.record import empty_record, error_entry, write_record

if TYPE_CHECKING:
    from vggtq.artifact import Saved
    from vggtq.data.scene import Scene
    from vggtq.quant.quantize import Quantization

log = logging.getLogger(__name__)

PICTURE = "comparison.png"
PREVIEW = "preview.safetensors"
ARTIFACT = "model.safetensors"
PREDICTIONS = "*predictions*"  # the file, and its parts where the run ended before it was written


class UnwrittenRecordError(VggtqError):
    """The record of a run that could not be written."""


def run(cfg: DictConfig, folder: Path, command: str) -> dict[str, Any]:
    """Runs one configuration and returns its record, which also lies in `folder`, whatever happened.

    Exceptions end up in the record with status `failed`; only an interruption is raised again, after it has been recorded.
    """
    record = empty_record() | {"name": folder.name, "command": command, "started": _now()}
    sweep = Journal.current()
    record["sweep"] = sweep.id if sweep else None
    started = time.perf_counter()
    try:
        record["config"] = plain(cfg)
        record["config_hash"] = config_hash(record["config"])
        with Steps() as steps:
            _run(validated(cfg), folder, record, steps)
        record["status"] = "ok"
    except Exception as error:
        record["error"] = error_entry(exhausted(error, record["config"]) or error)
    except BaseException as error:
        interruption.settled()
        record["error"] = error_entry(error)
        raise
    finally:
        record["seconds"]["total"] = time.perf_counter() - started
        if record["picture"] is None:
            # An earlier run's, which this record does not speak of.
            (folder / PICTURE).unlink(missing_ok=True)
        if record["preview"] is None:
            (folder / PREVIEW).unlink(missing_ok=True)
        if record["artifact"] is None:
            (folder / ARTIFACT).unlink(missing_ok=True)
        if record["predictions"] is None:
            for left in folder.glob(PREDICTIONS):
                left.unlink()
        keep(record, folder)
    return record


def keep(record: dict[str, Any], folder: Path) -> None:
    """Writes the record; a run whose record cannot be written has failed, whatever it measured."""
    try:
        write_record(record, folder)
    except OSError as error:
        reason = (
            exhausted(error, record["config"])
            or f"{error.strerror or error}; choose another hydra.run.dir=DIR"
        )
        record |= {"status": "failed", "error": error_entry(UnwrittenRecordError(f"no record: {reason}"))}


def _run(config: Config, folder: Path, record: dict[str, Any], steps: Steps) -> None:
    """The one path: every line adds what it found to the record."""
    record["scheme"] = describe_scheme(config.scheme)
    import vggtq.environment as env

    device = env.resolve_device(config.device)
    env.make_deterministic(config.seed, device)
    record["environment"] = env.environment(device, config.seed)
    seconds: dict[str, float | None] = record["seconds"]

    from vggtq import artifact
    from vggtq.allocation import check_bytes, find_bits
    from vggtq.calibration_data import Samples
    from vggtq.comparison import Comparison, timed
    from vggtq.finetuning import quantize_model_
    from vggtq.fresh_memory import compare_memory
    from vggtq.models.fused import fuse_
    from vggtq.models.loading import share_parameters
    from vggtq.predictions import Predictions
    from vggtq.quant.rest import round_rest_
    from vggtq.quant.select import select_layers

    # Patterns that match nothing and images that cannot be read fail before weights are, files that are missing before both.
    config.model.check()
    select_layers(config.model.skeleton(), config.scheme)
    scenes = _scenes(config.dataset)
    first = next(scenes)
    samples = None
    if config.scheme.needs_calibration:
        samples = Samples.of(config.calibration)
        samples.check_disjoint(first)
    steps.step(f"loading {config.model.name}")
    with timed(seconds, "load"):
        model = config.model.load(device)
    record["model"] = describe_model(config.model.name, model)
    record["inputs"] = describe_inputs(config)

    allocation = None
    if config.scheme.allocates and samples:
        steps.step("measuring what the bits of each layer cost")
        with timed(seconds, "allocate"):
            allocation, record["allocation"] = find_bits(config, model, samples, steps)
        config = replace(config, scheme=allocation.scheme)
        record["scheme"] = describe_scheme(config.scheme)

    steps.step(f"quantizing to {config.scheme.label}")
    with timed(seconds, "quantize"):
        twin = share_parameters(model.module)
        quantization, record["finetune"] = quantize_model_(twin, model, config, samples, steps, device)
        round_rest_(twin, config.rest)
        fuse_(twin, quantization)
    record |= describe_layers(quantization)
    record["calibration"] = samples.describe(quantization) if samples else None
    record["size"] = describe_size(model.module, twin, quantization, config.rest)
    over = check_bytes(allocation, record["size"]["stored_bytes"]) if allocation else []
    _log_quantization(config.scheme, quantization, record["size"])

    def save(path: Path) -> artifact.Saved:
        identity = config.model.identity()
        return artifact.save(twin, path, config.scheme, quantization, model.weights, identity, config.rest)

    if config.save:
        record["artifact"] = _saved(save(folder / ARTIFACT))
    notes = [*quantization.notes, *over, *(samples.notes if samples else ()), *_domain_notes(config)]
    predictions = Predictions(folder) if config.save_predictions else None
    comparison = Comparison(config, model, twin, device, predictions)
    for scene in chain([first], scenes):
        steps.step(f"predicting {scene.name}, {len(scene.images)} frames", total=2)
        if samples:
            samples.check_disjoint(scene)
        comparison.add(scene, seconds, steps)
    record |= comparison.result()
    record["notes"] = [*notes, *comparison.notes]

    record["picture"] = comparison.draw(folder / PICTURE)
    record["preview"] = comparison.preview.write(folder / PREVIEW)
    if predictions:
        record["predictions"] = kept = predictions.write()
        log.info("predictions %s, %.1f MiB, float32", folder / kept["file"], kept["file_bytes"] / 2**20)
    steps.step("measuring memory in processes of their own")
    with timed(seconds, "memory"):
        record["memory"] = compare_memory(comparison, save, folder)
    with timed(seconds, "timing"):
        record["latency"] = comparison.latency(steps)


def _saved(saved: "Saved") -> dict[str, Any]:
    """The record's `artifact`, which lies beside it."""
    log.info("model   %s, %.1f MiB", saved.path, saved.file_bytes / 2**20)
    return {"file": saved.path.name, "file_bytes": saved.file_bytes, "sha256": saved.digest}


def _scenes(dataset: Any) -> "Iterator[Scene]":
    """The data set's scenes, at least one."""
    empty = True
    for scene in dataset.scenes():
        empty = False
        yield scene
    if empty:
        raise DataError(f"dataset {dataset.name} has no scenes; check its options")


def _domain_notes(config: Config) -> list[str]:
    """What to know where a model meets images of another kind than it was trained on."""
    model, dataset = config.model, config.dataset.name
    domain = getattr(model, "domain", None)
    if domain in (None, dataset):
        return []
    note = (
        f"{model.name} was trained on {domain} alone: images of dataset={dataset} are resized to its "
        f"{model.image_size} pixels, and it reconstructs them poorly"
    )
    log.warning(note)
    return [note]


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
