"""Peak memory of the quantized and of the FP32 model, each in a process of its own: the record's `memory`."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vggtq import artifact
from vggtq.atomic import temporary_folder
from vggtq.comparison import Comparison
from vggtq.data.scene import Scene
from vggtq.errors import VggtqError
from vggtq.quant.quantize import Quantization
from vggtq.quant.scheme import Scheme, Weights
from vggtq.safetensors_file import write_safetensors

log = logging.getLogger(__name__)

FLOAT32 = Scheme("fp32", Weights("float32", 32, granularity="none"))
Numbers = dict[str, float | None]
Save = Callable[[Path], object]


class CannotMeasureError(VggtqError):
    """The process that measures ended without an answer."""


def compare_memory(comparison: Comparison, save_quantized: Save, folder: Path) -> dict[str, Any]:
    """The record's `memory`, on the first scene. `save_quantized` writes the artifact; temporary files lie in `folder`."""
    scene, config = comparison.first, comparison.config
    assert scene is not None
    if not config.fresh_memory:
        return unmeasured("fresh_memory=false")
    model = comparison.model

    def save_reference(path: Path) -> object:
        identity = config.model.identity()
        return artifact.save(model.module, path, FLOAT32, Quantization(), model.weights, identity)

    try:
        quantized = _measured(save_quantized, scene, comparison.device, folder)
        reference, cached = comparison.baseline.numbers(
            "memory",
            scene.images,
            comparison.scenes[0]["images_sha256"],
            lambda: _measured(save_reference, scene, comparison.device, folder),
        )
    except (VggtqError, OSError) as error:
        reason = (
            str(error) if isinstance(error, VggtqError) else f"temporary files: {error.strerror or error}"
        )
        log.warning("memory is not measured: %s", reason)
        return unmeasured(reason)
    return {
        "scene": scene.name,
        "frames": len(scene.images),
        "size": list(scene.images.shape[-2:]),
        "quantized": quantized,
        "reference": reference | {"cached": cached},
        "reason": None,
    }


def _measured(save: Save, scene: Scene, device: torch.device, folder: Path) -> Numbers:
    # Not in /tmp, which may itself be memory.
    with temporary_folder(folder) as inside:
        images, model = inside / "images.safetensors", inside / "model.safetensors"
        write_safetensors(images, {"images": scene.images}, {})
        save(model)
        return measure_in_process(model, images, device)


def unmeasured(reason: str) -> dict[str, Any]:
    """The record's `memory` where there are no numbers."""
    return dict.fromkeys(("scene", "frames", "size", "quantized", "reference")) | {"reason": reason}


def measure_in_process(
    model: Path, images: Path, device: torch.device, precision: str = "float32", predictions: int = 1
) -> Numbers:
    """What `python -m vggtq.peak_memory` prints, with this process's number of threads. Raises CannotMeasureError."""
    options: dict[str, object] = {
        "model": model,
        "images": images,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    options |= {"precision": precision, "predictions": predictions}
    command = [
        sys.executable,
        "-m",
        "vggtq.peak_memory",
        *(f"{key}={value}" for key, value in options.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it was killed, perhaps for lack of memory"]
        raise CannotMeasureError(
            f"the measuring process ended with status {done.returncode}: {lines[-1].removeprefix('error: ')}"
        )
    numbers: Numbers = json.loads(done.stdout)
    return numbers
