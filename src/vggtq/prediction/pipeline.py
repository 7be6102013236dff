"""From options to files: reads the images, runs the network once on all of them, writes what it saw."""

import logging
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vggtq.artifact import Header, QuantizedModel, load, read_header
from vggtq.config import Device
from vggtq.config import options as config_names
from vggtq.data.select import count
from vggtq.environment import environment, make_deterministic, resolve_device
from vggtq.errors import ConfigError
from vggtq.models.weight_source import REPO_ID
from vggtq.predict import Options
from vggtq.prediction.colmap_text import name_notes
from vggtq.prediction.folder import OutputFolder
from vggtq.prediction.inputs import Inputs, read_inputs
from vggtq.prediction.result import Prediction, PredictionError, as_prediction, defects
from vggtq.prediction.writer import write_all
from vggtq.progress import Steps

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


def predict(options: Options, argv: list[str]) -> None:
    """Runs one prediction. Raises VggtqError; the files appear only when the network is done."""
    begin, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    device = resolve_device(Device(options.device, options.threads))
    make_deterministic(0, device)
    header = _header(options.model)
    folder = OutputFolder(Path(options.out).expanduser(), options.overwrite)
    with Steps() as steps:
        steps.step("reading images")
        inputs = _inputs(options, header, folder.path)
        log.info("%s, %s", _title(header), _describe(inputs))
        _tell(inputs.notes)
        steps.step("loading the model")
        loaded = load(options.model, device)
        prediction, seconds = _predict(loaded, inputs, options.points == "head", steps)
        found = defects(prediction)
        _tell(found)
        folder.begin()
        written = write_all(folder, prediction, options, _title(header), steps)
    report = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(["python", "-m", "vggtq.predict", *argv]),
        "started": started,
        "seconds": {"predict": round(seconds, 3), "all": round(time.perf_counter() - begin, 3)},
        "environment": environment(device, 0),
        "model": _model(header, Path(options.model)),
        "settings": _settings(options, inputs),
        "images": _images(inputs),
    }
    folder.finish(report | written | {"notes": [*inputs.notes, *found]})
    points, cameras = count(written["points"]["count"], "point"), count(len(inputs.names), "camera")
    log.info("%s and %s in %s after %.1f s", points, cameras, options.out, time.perf_counter() - begin)


def _header(model: str) -> Header:
    """Of the model file; a name that is something else gets the command that makes a file of it."""
    if not Path(model).expanduser().exists():
        if model in config_names("model"):
            raise ConfigError(
                f"model={model} is a configuration, not a model file; make one with "
                f"python -m vggtq.export model={model} scheme=int8_symmetric out={model}.safetensors"
            )
        if REPO_ID.fullmatch(model) and not model.endswith(".safetensors"):
            raise ConfigError(f"model={model}: no such file; to fetch it from the hub: vggtq pull {model}")
    return read_header(model)


def _inputs(options: Options, header: Header, out: Path) -> Inputs:
    size = options.image_size or int((header.model or {}).get("image_size", 518))
    inputs = read_inputs(options.images, out, options.mode, size)
    return replace(inputs, notes=(*inputs.notes, *name_notes(inputs.names)))


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        log.info("note: %s", note)


def _predict(loaded: QuantizedModel, inputs: Inputs, head: bool, steps: Steps) -> tuple[Prediction, float]:
    """The prediction and the seconds that the network took."""
    if not head:
        # what nobody asked for needs no time and no memory
        loaded.module.register_module("point_head", None)
    begin = time.perf_counter()
    with (
        _watched(loaded.module, steps, f"predicting {count(len(inputs.names), 'image')}"),
        _enough_memory(inputs),
    ):
        outputs = loaded.predict(inputs.images)
    seconds = time.perf_counter() - begin
    return as_prediction(inputs, outputs, head), seconds


@contextmanager
def _watched(module: torch.nn.Module, steps: Steps, description: str) -> Iterator[None]:
    """A bar that moves with every transformer block; the heads, which come last, are the last step."""
    blocks = [
        block
        for name, blocks in module.named_modules()
        if isinstance(blocks, torch.nn.ModuleList) and name.endswith("blocks")
        for block in blocks
    ]
    steps.step(description, len(blocks) + 1 if blocks else None)
    handles = [block.register_forward_hook(lambda *_: steps.advance()) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
            f"not enough memory for {_describe(inputs)}; use fewer images or a smaller image_size=…"
        ) from error


def _describe(inputs: Inputs) -> str:
    height, width = inputs.size_hw
    return f"{count(len(inputs.names), 'image')} of {width}×{height} pixels as the model sees them"


def _title(header: Header) -> str:
    return f"{(header.model or {}).get('name', 'model')}, {header.label}"


def _model(header: Header, path: Path) -> dict[str, Any]:
    return {
        "file": path.name,
        "bytes": path.expanduser().stat().st_size,
        "digest": header.digest,
        "name": (header.model or {}).get("name"),
        "scheme": header.label,
        "rest": header.rest,
        "weights": header.weights.source,
        "fingerprint": header.weights.fingerprint,
        "license": header.weights.license,
    }


def _settings(options: Options, inputs: Inputs) -> dict[str, Any]:
    height, width = inputs.size_hw
    return {"mode": options.mode, "width": width, "height": height, "percent_dropped": options.confidence}


def _images(inputs: Inputs) -> list[dict[str, Any]]:
    return [
        {"image": name, "sha256": file.sha256, "width": file.width, "height": file.height, "files": stem}
        for name, file, stem in zip(inputs.names, inputs.files, inputs.stems, strict=True)
    ]
