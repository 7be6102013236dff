"""One run from configuration to record: load, quantize, predict with both models, compare, measure.

Everything is imported by the time it is needed, so that a configuration mistake is reported before torch has been loaded.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.config.schema import Config
from vggtq.config.validate import Job
from vggtq.errors import DataError, VggtqError
from vggtq.machine import signals
from vggtq.machine.exhausted import exhausted
from vggtq.quant.scheme.scheme import Scheme
from vggtq.records.describe import describe_layers_, describe_model, describe_scheme, describe_size
from vggtq.records.domain import calibration_notes, model_notes
from vggtq.records.files import error_entry, write_record
from vggtq.records.inputs import describe_inputs
from vggtq.records.of_model import SizeEntry
from vggtq.records.of_run import ArtifactEntry
from vggtq.records.schema import Record
from vggtq.sweep.journal import Journal
from vggtq.terminal.progress import Steps

if TYPE_CHECKING:
    from vggtq.artifact.write import Saved
    from vggtq.data.scene import Dataset, Scene
    from vggtq.quant.walk.quantize import Quantization


log = logging.getLogger(__name__)

PICTURE = "comparison.png"
PREVIEW = "preview.safetensors"
ARTIFACT = "model.safetensors"
PREDICTIONS = "*predictions*"  # the file, and its parts where the run ended before it was written


class UnwrittenRecordError(VggtqError):
    """The record of a run that could not be written."""


def run(job: Job, folder: Path, command: str) -> Record:
    """Runs one configuration and returns its record, which also lies in `folder`, whatever happened.

    Exceptions end up in the record with status `failed`; only an interruption is raised again, after it has been recorded.
    """
    record = Record(name=folder.name, command=command, started=_now())
    sweep = Journal.current()
    record.sweep = sweep.id if sweep else None
    started = time.perf_counter()
    try:
        record.config, record.config_hash = job.values, job.hash
        with Steps() as steps, ExitStack() as cleanup:
            _run(job.config, folder, record, steps, cleanup)
        record.status = "ok"
    except Exception as error:
        record.error = error_entry(exhausted(error, record.config) or error)
    except BaseException as error:
        signals.settled()
        record.error = error_entry(error)
        raise
    finally:
        record.seconds["total"] = time.perf_counter() - started
        _remove_what_is_not_of(record, folder)
        keep(record, folder)
    return record


def _remove_what_is_not_of(record: Record, folder: Path) -> None:
    """Files of an earlier run, which this record does not speak of."""
    kept = (record.picture, record.preview, record.artifact, record.predictions)
    for file, pattern in zip(kept, (PICTURE, PREVIEW, ARTIFACT, PREDICTIONS), strict=True):
        for left in folder.glob(pattern) if file is None else ():
            left.unlink()


def keep(record: Record, folder: Path) -> None:
    """Writes the record; a run whose record cannot be written has failed, whatever it measured."""
    try:
        write_record(record, folder)
    except OSError as error:
        other = f"{error.strerror or error}; choose another hydra.run.dir=DIR"
        reason = exhausted(error, record.config) or other
        record.status, record.error = "failed", error_entry(UnwrittenRecordError(f"no record: {reason}"))


def _run(config: Config, folder: Path, record: Record, steps: Steps, cleanup: ExitStack) -> None:
    """The single path of a run: every line adds its findings to the record."""
    from vggtq.machine.environment import environment
    from vggtq.machine.timing import timed
    from vggtq.network.bounded import bound_
    from vggtq.prepare.quantized import allocate_, check, load, quantize, use_device
    from vggtq.records.predictions import Predictions
    from vggtq.run.comparison import Comparison
    from vggtq.run.engine import EngineRun
    from vggtq.run.fresh_memory import compare_memory

    seconds = record.seconds
    record.scheme = describe_scheme(config.scheme)
    device = use_device(config)
    record.environment = environment(device, config.seed)
    # Patterns that match nothing and images that cannot be read fail before weights are, files that are missing before both.
    check(config)
    scenes = _scenes(config.dataset)
    first = next(scenes)
    notes = _domain_notes(config)
    source = load(config, device, steps, seconds, evaluated=first)
    model, samples = source.model, source.samples
    record.model = describe_model(config.model.name, model)
    record.inputs = describe_inputs(config)

    allocate_(source, steps, seconds)
    config = source.config
    record.scheme, record.allocation = describe_scheme(config.scheme), source.entry
    twin = quantize(source, steps, seconds)
    describe_layers_(record, twin.quantization)
    record.finetune, record.calibration = twin.finetune, twin.calibration
    record.size = describe_size(model.module, twin.module, twin.quantization, config.rest)
    _log_quantization(config.scheme, twin.quantization, record.size)
    twin.check_budget()
    if config.memory.bounds:
        bound_(twin.module, config.memory)
        twin.notes.append(f"the quantized model runs with {config.memory.label}; the reference does not")
    if config.save:
        record.artifact = _saved(twin.save(folder / ARTIFACT))

    predictions = Predictions(folder) if config.save_predictions else None
    engine = None
    if config.engine.name != "torch":
        steps.step(f"exporting to {config.engine.name}")
        engine = cleanup.enter_context(EngineRun(config, twin, first.images, device, folder))
        record.scheme.label = f"{record.scheme.label} in {engine.title}"
    comparison = Comparison(config, model, twin.module, device, predictions, engine)
    for scene in chain([first], scenes):
        steps.step(f"predicting {scene.name}, {len(scene.images)} frames", total=2)
        if samples:
            samples.check_disjoint(scene)
        comparison.add(scene, seconds, steps)
    comparison.enter_(record)
    record.notes = [*notes, *twin.notes, *comparison.notes]

    record.picture = comparison.draw(folder / PICTURE)
    record.preview = comparison.preview.write(folder / PREVIEW)
    if predictions:
        record.predictions = kept = predictions.write()
        log.info("predictions %s, %.1f MiB, float32", folder / kept.file, kept.file_bytes / 2**20)
    steps.step("measuring memory in processes of their own")
    with timed(seconds, "memory"):
        record.memory = compare_memory(comparison, twin.save, folder)
    with timed(seconds, "timing"):
        record.latency = comparison.latency(steps)
    if engine is not None:
        record.engine = engine.entry()


def _saved(saved: "Saved") -> ArtifactEntry:
    """The record's `artifact`, which lies beside it."""
    log.info("model   %s, %.1f MiB", saved.path, saved.file_bytes / 2**20)
    return ArtifactEntry(saved.path.name, saved.file_bytes, saved.digest)


def _scenes(dataset: "Dataset") -> "Iterator[Scene]":
    """The data set's scenes, at least one."""
    empty = True
    for scene in dataset.scenes():
        empty = False
        yield scene
    if empty:
        raise DataError(f"dataset {dataset.name} has no scenes; check its options")


def _domain_notes(config: Config) -> list[str]:
    """Notes on a model, or its calibration, that meets images of another kind than it was made on. Logs them as
    warnings.
    """
    model, dataset = config.model, config.dataset.name
    notes = calibration_notes(config.calibration.name if config.scheme.needs_calibration else None, dataset)
    if getattr(model, "domain", None) not in (None, dataset):
        notes += model_notes(model.name, model.domain, model.image_size, f"images of dataset={dataset}")
    for note in notes:
        log.warning(note)
    return notes


def _log_quantization(scheme: Scheme, quantization: "Quantization", size: SizeEntry) -> None:
    before, after = size.float32_bytes / 2**20, size.stored_bytes / 2**20
    done = f"{len(quantization.layers)} layers quantized, {len(quantization.kept)} kept"
    bytes_ = f"{before:.1f} → {after:.1f} MiB ({size.compression_vs_fp32:.2f} ×)"
    log.info("%s  %s; %s", scheme.label, done, bytes_)
    backends = Counter((layer.backend, layer.simulated) for layer in quantization.layers)
    for (backend, simulated), layers in backends.items():
        note = " (dequantizes, then multiplies in float: its speed is simulated)" if simulated else ""
        log.info("backend %s: %d layers%s", backend, layers, note)
    notes = Counter(note for layer in quantization.layers for note in layer.notes)
    for note, layers in notes.items():
        log.warning("%s (%d layers)", note, layers)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
