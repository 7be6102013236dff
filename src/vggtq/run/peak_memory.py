"""`vggtq run peak_memory`: the memory that one model needs, measured in a process that does nothing else.

Within a run, two models, their outputs and the memory that the allocator keeps are alive, so that a peak there
says little about either. The level before loading is that of Python, torch and vggtq alone; the memory that a
model adds lies above it.
"""

import json
import logging
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vggtq.artifact.header import read_header
from vggtq.artifact.read import load
from vggtq.errors import DataError
from vggtq.machine.device import Device
from vggtq.machine.memory import peak_rss_bytes, release_at_once, release_free_memory, reset_peak, rss_bytes
from vggtq.network.bounded import bound_
from vggtq.network.memory import Memory
from vggtq.plugins import load_plugins
from vggtq.records.of_run import PeakMemory
from vggtq.records.plain import plain
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option


@dataclass
class Options:
    """The model to load and the images to predict."""

    model: str = option(
        "a model file that vggtq export wrote",
        missing="name a file that vggtq export wrote: model=model.safetensors",
    )
    images: str = option(
        "a folder of photographs, or a .safetensors file with a tensor `images`, (S, 3, H, W) float32 in [0, 1]",
        missing="name a folder of photographs: images=DIR",
    )
    device: str = option("where the model runs", "cpu", choices=("cpu", "cuda"))
    threads: int | None = option("CPU threads; null: torch's choice", None, least=1)
    predictions: int = option("how often to predict", 1, least=1)
    precision: str = option(
        "bfloat16: the aggregator under autocast, its weights converted beforehand",
        "float32",
        choices=("float32", "bfloat16"),
    )
    memory: Memory = field(default_factory=Memory)
    plugins: list[str] = option("modules that the model needs", [])


COMMAND = Command(
    "run peak_memory",
    Options,
    (
        "model=model.safetensors images=photos",
        "model=model.safetensors images=photos device=cuda predictions=5",
    ),
    """\
Prints rss_before_load_bytes (Python, torch, vggtq and the images), load_peak_rss_bytes, rss_loaded_bytes,
predict_peak_rss_bytes, peak_rss_bytes (the larger peak), cuda_peak_bytes (allocated; null on the CPU), load_seconds,
predict_seconds (of the first prediction) and warm_seconds (median of further ones, or null). Where a process cannot reset its
peak, the two partial peaks are null.
""",
)


def measure(
    model: Path,
    images: Tensor,
    device: torch.device,
    precision: str = "float32",
    predictions: int = 1,
    memory: Memory | None = None,
) -> PeakMemory:
    """Loads and predicts in this process, which should have done nothing before. images: (S, 3, H, W) in [0, 1]."""
    if device.type == "cuda":
        torch.zeros(1, device=device)  # the context, which belongs to no model
        torch.cuda.reset_peak_memory_stats(device)
    resettable, before = reset_peak(), rss_bytes()
    started = time.perf_counter()
    loaded = load(model, device)
    if precision == "bfloat16":
        loaded.module = loaded.bfloat16_twin()
        release_free_memory()  # this model would not be loaded from a float32 file
    if memory and memory.bounds:
        bound_(loaded.module, memory)
    load_seconds = time.perf_counter() - started
    load_peak, level = peak_rss_bytes(), rss_bytes()
    reset_peak()
    seconds = []
    for _ in range(predictions):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loaded.predict(images)  # its outputs come back to the CPU, so that a GPU has finished
        seconds.append(time.perf_counter() - started)
    predict_peak = peak_rss_bytes()
    return PeakMemory(
        before,
        load_peak if resettable else None,
        level,
        predict_peak if resettable else None,
        max(load_peak, predict_peak),
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        load_seconds,
        seconds[0],
        statistics.median(seconds[1:]) if seconds[1:] else None,
    )


def read_images(path: Path, model: Path) -> Tensor:
    """(S, 3, H, W) float32: a tensor file as it is, or the photographs of a folder at the model's image size."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
        if "images" not in tensors:
            raise DataError(
                f"{path}: holds {', '.join(sorted(tensors)) or 'nothing'}; name the tensor images"
            )
        return tensors["images"]
    from vggtq.data.images import ImageFolder
    from vggtq.models.loading import VGGTModel, model_of

    described = read_header(model).model
    made_for = model_of(described) if described else VGGTModel()
    options = {name: getattr(made_for, name) for name in ("image_size", "mode", "patch_size")}
    (scene,) = ImageFolder(path=str(path), **options).scenes()
    return scene.images


def _work(options: Options) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    load_plugins(options.plugins)
    from vggtq.machine.device import resolve_device

    device = resolve_device(Device(options.device, options.threads))
    model = Path(options.model)
    images = read_images(Path(options.images), model)
    if options.memory.chunk_tokens:
        release_at_once()
    measured = measure(model, images, device, options.precision, options.predictions, options.memory)
    print(json.dumps(plain(measured), indent=1))


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
