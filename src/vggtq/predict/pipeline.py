"""From options to files: reads the images, runs the network once on all of them, writes its predictions."""

import gc
import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vggtq.artifact.read import QuantizedModel, load
from vggtq.data.select import count
from vggtq.errors import ConfigError
from vggtq.machine.device import Device, make_deterministic, resolve_device
from vggtq.machine.environment import environment
from vggtq.machine.memory import release_free_memory
from vggtq.models.loading import model_of
from vggtq.models.network import Network
from vggtq.network.bounded import bound_, check
from vggtq.network.declared import stage_names
from vggtq.network.memory import Memory
from vggtq.predict.budget import Budget, compared, tell
from vggtq.predict.files.colmap_text import name_notes
from vggtq.predict.files.recording import open_viewer, rerun
from vggtq.predict.files.writer import RECORDING, WINDOWS, OutputFolder, write_all
from vggtq.predict.inputs import Inputs, read_inputs
from vggtq.predict.kept import kept
from vggtq.predict.options import Options
from vggtq.predict.plan import LADDER, Plan
from vggtq.predict.result import Prediction, PredictionError, as_prediction, defects
from vggtq.predict.sources import Source, read_sources
from vggtq.predict.windows.options import Windows
from vggtq.predict.windows.store import Store, alone
from vggtq.quant.kernels.per_tensor import check_inputs
from vggtq.records.domain import model_notes
from vggtq.terminal.progress import Steps

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FITTED = "the model predicts no field of view: focal lengths are fitted to its points, and the point cloud has these points"


@dataclass(frozen=True)
class _How:
    """The settings with which every model sees the images. windows: None for all of them at once; `place` is
    for their files.
    """

    memory: Memory
    device: torch.device
    head: bool
    windows: Windows | None
    place: Path


def predict(options: Options, argv: list[str]) -> None:
    """Runs one prediction. Raises VggtqError; the files appear only when the network is done, but for those of windows."""
    begin, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    if options.viewer != "none":
        rerun()  # a missing extra would be noticed last
    device = resolve_device(Device(options.device, options.threads))
    make_deterministic(0, device)
    sources = read_sources(options)
    source = sources[0]
    folder = OutputFolder(
        Path(options.out).expanduser(), options.overwrite, options.windows.frames is not None
    )
    if options.windows.frames is not None:
        import vggtq.predict.windows.run  # noqa: F401  # brings scipy, which counts before the plan
    budget = _budget(options, sources, device)
    with Steps() as steps, ExitStack() as until_written:
        steps.step("reading images")
        inputs = _inputs(options, source, folder.path)
        log.info("%s, %s", source.title, _describe(inputs))
        _tell(inputs.notes)
        chosen = budget.choose(inputs, options.memory, options.windows) if budget else None
        if chosen:
            tell(chosen)
        memory = chosen.memory if chosen else options.memory
        windows = _windows(options.windows, chosen, inputs)
        notes = [f"{lever} changes results" for lever in memory.lossy]
        _tell(notes)
        how = _How(memory, device, options.points == "head", windows, folder.path / WINDOWS)
        if windows:
            until_written.enter_context(_kept_windows(how.place))
        else:
            inputs = inputs.in_memory()
        predictions, seconds, described = _predictions(sources, how, inputs, steps)
        problems = [note for s, p in zip(sources, predictions, strict=True) for note in _problems(s, p)]
        _tell(problems)
        folder.begin()
        titled = [(s.title, p) for s, p in zip(sources, predictions, strict=True)]
        written = write_all(folder, titled, options, steps)
        report = {
            "schema_version": SCHEMA_VERSION,
            "command": shlex.join(["python", "-m", "vggtq.predict", *argv]),
            "started": started,
            "seconds": {"predict": round(seconds, 3), "all": round(time.perf_counter() - begin, 3)},
            "environment": environment(device, 0),
            **{s.key: s.described() for s in sources},
            "settings": _settings(options, inputs),
            "images": _images(inputs),
            **_memory(options, chosen),
            **({"windows": described} if windows else {}),
        }
        folder.finish(report | written | {"notes": [*inputs.notes, *notes, *problems]})
    points, cameras = count(written["points"]["count"], "point"), count(len(inputs.names), "camera")
    log.info("%s and %s in %s after %.1f s", points, cameras, options.out, time.perf_counter() - begin)
    if options.viewer == "open":
        open_viewer(folder.path / RECORDING)


def _memory(options: Options, chosen: Plan | None) -> dict[str, Any]:
    """The index's entry about levers, where there are any."""
    if chosen:
        return {"memory": {"budget_gb": options.budget_gb} | compared(chosen)}
    return {"memory": {"levers": dict(vars(options.memory))}} if options.memory.bounds else {}


def _budget(options: Options, sources: Sequence[Source], device: torch.device) -> Budget | None:
    """Also checks the levers, before images are read."""
    planned = LADDER[0] if options.budget_gb is not None else options.memory
    for header in (source.header for source in sources):
        check_inputs(planned, header.scheme.activations)
        if header.model:
            network = model_of(header.model).skeleton()
            check(network, options.memory, header.scheme.attention)
            if options.windows.frames is not None and not isinstance(network, Network):
                raise ConfigError(
                    f"windows.frames={options.windows.frames}: {type(network).__name__} names no stages, so that its images "
                    "cannot be compared; leave the option out"
                )
    if options.budget_gb is None:
        return None
    head = options.points == "head"
    return Budget(options.budget_gb, sources[0].header, Path(options.model).expanduser(), device, head)


@kept
def _loaded(file: str, head: bool, memory: Memory, device: torch.device) -> QuantizedModel:
    loaded = load(file, device)
    if memory.bounds:
        bound_(loaded.module, memory)
    if not head and isinstance(loaded.module, Network):
        # outputs that are not requested need no time and no memory
        loaded.module.leave_out_points_()
    return loaded


def _inputs(options: Options, source: Source, out: Path) -> Inputs:
    model = source.model()
    patch, size = model.patch_size, options.image_size or model.image_size
    if size < patch or size % patch:
        raise ConfigError(f"image_size={size} is not a positive multiple of the patch size {patch}")
    on_disk = options.windows.frames is not None
    inputs = read_inputs(options.images, out, options.mode or model.mode, size, patch, on_disk)
    known = model_notes(
        model.name, model.domain, model.image_size, "these images", source.header.weights.random
    )
    return replace(inputs, notes=(*known, *inputs.notes, *name_notes(inputs.names)))


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        log.info("note: %s", note)


def _problems(source: Source, prediction: Prediction) -> list[str]:
    """Notes on a prediction, with the option of its model where it is not the first."""
    notes = [*defects(prediction), *([FITTED] if prediction.intrinsics_fitted else [])]
    return notes if source.key == "model" else [f"{source.key}: {note}" for note in notes]


def _windows(wanted: Windows, chosen: Plan | None, inputs: Inputs) -> Windows | None:
    """Those that the images are cut into; None where all of them are seen at once."""
    frames = chosen.frames if chosen else wanted.frames
    if not isinstance(frames, int) or len(inputs.names) <= frames:
        return None
    return replace(wanted, frames=frames)


def _predictions(
    sources: Sequence[Source], how: _How, inputs: Inputs, steps: Steps
) -> tuple[list[Prediction], float, dict[str, Any]]:
    """One prediction per model, each loaded when the one before is freed, the seconds that the first took, and its windows."""
    predictions, seconds, windows = list[Prediction](), list[float](), list[dict[str, Any]]()
    for source in sources:
        if predictions:
            gc.collect()
            release_free_memory()
        steps.step(f"loading {Path(source.file).name}")
        loaded = _loaded(source.file, how.head, how.memory, how.device)
        begin = time.perf_counter()
        with _enough_memory(inputs):
            if how.windows is None:
                prediction, described = _predict(loaded, inputs, how.head, steps), dict[str, Any]()
            else:
                from vggtq.predict.windows.run import joined, predict_windows  # with scipy

                place, digest = how.place / source.key, source.header.digest
                store = Store.of(place, digest, how.memory, how.head, how.device)
                seen = predict_windows(loaded, inputs, how.windows, how.head, store, steps)
                steps.step("aligning")
                prediction, described = joined(inputs, seen)
        predictions.append(prediction)
        seconds.append(time.perf_counter() - begin)
        windows.append(described)
        del loaded
    return predictions, seconds[0], windows[0]


def _predict(loaded: QuantizedModel, inputs: Inputs, head: bool, steps: Steps) -> Prediction:
    """All images at once."""
    with _watched(loaded.module, steps, f"predicting {count(len(inputs.names), 'image')}"):
        outputs = loaded.predict(inputs.images)
    return as_prediction(inputs, outputs, head)


@contextmanager
def _watched(module: torch.nn.Module, steps: Steps, description: str) -> Iterator[None]:
    """A bar that moves with every stage of the network."""
    stages = [module.get_submodule(name) for name in stage_names(module)]
    steps.step(description, len(stages) or None)
    handles = [stage.register_forward_hook(lambda *_: steps.advance()) for stage in stages]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _kept_windows(place: Path) -> Iterator[None]:
    """For one command at a time. After an interruption it says that windows are kept, if any are."""
    with alone(place):
        try:
            yield
        except KeyboardInterrupt:
            if any(place.glob("*/*")):
                log.info("finished windows stay in %s; the same command goes on with them", place)
            raise


@contextmanager
def _enough_memory(inputs: Inputs) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has an error class of its own for CUDA alone
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(
            error
        ):
            raise
        raise PredictionError(
            f"not enough memory for {_describe(inputs)}; use fewer images or a smaller image_size=…, or windows.frames=…"
        ) from error


def _describe(inputs: Inputs) -> str:
    height, width = inputs.size_hw
    return f"{count(len(inputs.names), 'image')} of {width}×{height} pixels as the model sees them"


def _settings(options: Options, inputs: Inputs) -> dict[str, Any]:
    height, width = inputs.size_hw
    return {"mode": inputs.mode, "width": width, "height": height, "percent_dropped": options.confidence}


def _images(inputs: Inputs) -> list[dict[str, Any]]:
    return [
        {"image": name, "sha256": file.sha256, "width": file.width, "height": file.height, "files": stem}
        for name, file, stem in zip(inputs.names, inputs.files, inputs.stems, strict=True)
    ]
