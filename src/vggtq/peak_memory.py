"""`python -m vggtq.peak_memory`: the memory that one model needs, measured in a process that does nothing else.

Within a run, two models, their outputs and whatever the allocator keeps are alive, so that a peak there says little about
either. The level before loading is that of Python, torch and vggtq alone; what a model adds is above it.
"""

import contextlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vggtq.allocator import release_free_memory
from vggtq.artifact import load, read_header
from vggtq.command_line import execute, one_of, parse
from vggtq.config import Device
from vggtq.errors import ConfigError, DataError
from vggtq.measure import peak_rss_bytes, reset_peak, rss_bytes

HELP = """\
The memory that one quantized model needs: loads it, predicts once, prints JSON.

  python -m vggtq.peak_memory model=FILE images=DIR [key=value…]

model      a model file that python -m vggtq.export wrote
images     a folder of photographs, or a .safetensors file with a tensor `images`, (S, 3, H, W) float32 in [0, 1]
device     cpu (default) or cuda
threads    CPU threads; default: torch's choice
predictions  how often to predict; default 1
precision  float32 (default), or bfloat16: the aggregator under autocast, its weights converted beforehand

Prints rss_before_load_bytes (Python, torch, vggtq and the images), load_peak_rss_bytes, rss_loaded_bytes,
predict_peak_rss_bytes, peak_rss_bytes (the larger peak), cuda_peak_bytes (allocated; null on the CPU), load_seconds,
predict_seconds (of the first prediction) and warm_seconds (median of further ones, or null). Where a process cannot reset its
peak, the two partial peaks are null.
"""


@dataclass
class Options:
    """What to load and what to predict; see HELP."""

    model: str = field(
        metadata={"example": "name a file that python -m vggtq.export wrote: model=model.safetensors"}
    )
    images: str = field(metadata={"example": "name a folder of photographs: images=DIR"})
    device: str = "cpu"
    threads: int | None = None
    predictions: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.predictions < 1:
            raise ConfigError(f"predictions={self.predictions}: use at least 1")
        one_of("device", self.device, ("cpu", "cuda"))
        one_of("precision", self.precision, ("float32", "bfloat16"))


@dataclass(frozen=True)
class PeakMemory:
    """Bytes and seconds of one model in one process. None: this system does not tell."""

    rss_before_load_bytes: int | None
    load_peak_rss_bytes: int | None
    rss_loaded_bytes: int | None
    predict_peak_rss_bytes: int | None
    peak_rss_bytes: int
    cuda_peak_bytes: int | None
    load_seconds: float
    predict_seconds: float
    warm_seconds: float | None  # median of the predictions after the first, None if there is only one


def measure(
    model: Path, images: Tensor, device: torch.device, precision: str = "float32", predictions: int = 1
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
        release_free_memory()  # a float32 file is not what this model would be loaded from
    load_seconds = time.perf_counter() - started
    load_peak, level = peak_rss_bytes(), rss_bytes()
    reset_peak()
    seconds = []
    for _ in range(predictions):
        started = time.perf_counter()
        with _autocast(device, precision):
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


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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

    size = (read_header(model).model or {}).get("image_size", 518)
    (scene,) = ImageFolder(path=str(path), image_size=size).scenes()
    return scene.images


def _work(argv: Sequence[str]) -> None:
    options = parse(argv, Options)
    from vggtq.environment import resolve_device

    device = resolve_device(Device(options.device, options.threads))
    model = Path(options.model)
    images = read_images(Path(options.images), model)
    measured = measure(model, images, device, options.precision, options.predictions)
    print(json.dumps(asdict(measured), indent=1))


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(execute(sys.argv[1:], HELP, _work))


if __name__ == "__main__":
    main()
