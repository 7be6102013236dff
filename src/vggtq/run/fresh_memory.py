"""Peak memory of the quantized and of the FP32 model, each in a process of its own: the record's `memory`."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vggtq import artifact
from vggtq.data.scene import Scene
from vggtq.errors import VggtqError
from vggtq.files.atomic import temporary_folder
from vggtq.files.tensors import write_safetensors
from vggtq.network.memory import Memory
from vggtq.plugins import loaded_plugins
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import Quantization
from vggtq.records.of_run import MemoryEntry, PeakMemory
from vggtq.records.plain import parsed
from vggtq.run.comparison import Comparison

log = logging.getLogger(__name__)

FLOAT32 = Scheme("fp32", Weights("float32", 32, granularity="none"))
Numbers = dict[str, float | None]
Save = Callable[[Path], object]


class CannotMeasureError(VggtqError):
    """The process that measures ended without an answer."""


def compare_memory(comparison: Comparison, save_quantized: Save, folder: Path) -> MemoryEntry:
    """The record's `memory`, on the first scene. `save_quantized` writes the artifact; temporary files lie in `folder`."""
    scene, config = comparison.first, comparison.config
    assert scene is not None
    if not config.fresh_memory:
        return unmeasured("fresh_memory=false")
    model, engine = comparison.model, comparison.engine

    def save_reference(path: Path) -> object:
        identity = config.model.identity()
        return artifact.save(model.module, path, FLOAT32, Quantization(), model.weights, identity)

    try:
        if engine is not None:
            quantized = engine.memory(scene.images)
        else:
            quantized = _measured(save_quantized, scene, comparison.device, folder, config.memory)
        reference, cached = comparison.baseline.numbers(
            "memory",
            scene.images,
            comparison.scenes[0].images_sha256,
            lambda: _measured(save_reference, scene, comparison.device, folder),
        )
    except (VggtqError, OSError) as error:
        reason = (
            str(error) if isinstance(error, VggtqError) else f"temporary files: {error.strerror or error}"
        )
        log.warning("memory is not measured: %s", reason)
        return unmeasured(reason)
    return MemoryEntry(
        scene=scene.name,
        frames=len(scene.images),
        size=list(scene.images.shape[-2:]),
        quantized=parsed(PeakMemory, quantized),
        reference=parsed(PeakMemory, reference | {"cached": cached}),
        reason=None,
    )


def _measured(
    save: Save, scene: Scene, device: torch.device, folder: Path, memory: Memory | None = None
) -> Numbers:
    # Not in /tmp, which may itself be memory.
    with temporary_folder(folder) as inside:
        images, model = inside / "images.safetensors", inside / "model.safetensors"
        write_safetensors(images, {"images": scene.images}, {})
        save(model)
        return measure_in_process(model, images, device, memory=memory)


def unmeasured(reason: str) -> MemoryEntry:
    """The record's `memory` where there are no numbers."""
    return MemoryEntry(None, None, None, None, None, reason)


def measure_in_process(
    model: Path,
    images: Path,
    device: torch.device,
    precision: str = "float32",
    predictions: int = 1,
    memory: Memory | None = None,
) -> Numbers:
    """The numbers that `vggtq run peak_memory` prints, with this process's number of threads. Raises
    CannotMeasureError.
    """
    options = [f"model={model}", f"images={images}", f"device={device.type}", f"precision={precision}"]
    options += [f"threads={torch.get_num_threads()}", f"predictions={predictions}"]
    options += [f"plugins=[{','.join(plugin.module for plugin in loaded_plugins())}]"]
    options += memory.label.split() if memory else []
    command = [sys.executable, "-m", "vggtq.run.peak_memory", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it was killed, perhaps for lack of memory"]
        raise CannotMeasureError(
            f"the measuring process ended with status {done.returncode}: {lines[-1].removeprefix('error: ')}"
        )
    return json.loads(done.stdout)
