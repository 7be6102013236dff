"""`python -m vggtq.bench.quantizing`: how long a recipe takes on a network, and the memory that it takes, as a row of a table.

python -m vggtq.bench.quantizing model=vggt_1b model.source=null model.image_size=224 calibration.samples=2 scheme=gptq_w4a16

With model.source=null the weights are random: their values change neither times nor memory. CPU seconds count all threads; they
mean something on a busy machine, too. One scheme per process, for the peak of memory is that of the process.
"""

import resource
import sys
import time

import torch

from vggtq.calibration_data import Samples
from vggtq.config import compose, validated
from vggtq.environment import make_deterministic, resolve_device
from vggtq.progress import Steps
from vggtq.quant.quantize import quantize_

HEADER = "| scheme | layers | calibration, s | quantizing in all, s | CPU, s | peak memory before, GiB | peak memory, GiB |"


def row(overrides: list[str]) -> str:
    """One line of a Markdown table, in the order of HEADER."""
    config = validated(compose(overrides))
    device = resolve_device(config.device)
    make_deterministic(config.seed, device)
    samples = Samples.of(config.calibration) if config.scheme.needs_calibration else None
    model = config.model.load(device)
    before = _peak_gib()
    started = time.process_time()
    inputs, cache = samples.prepare(config, model) if samples else (None, None)
    with Steps() as steps:
        steps.step(f"quantizing to {config.scheme.label}")
        done = quantize_(model.module, config.scheme, on_layer=steps.at, calibrate=inputs, cache=cache)
    cpu = time.process_time() - started
    numbers = (
        f"{done.calibration_seconds:.0f} | {done.seconds:.0f} | {cpu:.0f} | {before:.1f} | {_peak_gib():.1f}"
    )
    return f"| {config.scheme.name} | {len(done.layers)} | {numbers} |"


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print(HEADER, row(sys.argv[1:]), sep="\n")
