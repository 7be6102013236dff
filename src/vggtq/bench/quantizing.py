"""`python -m vggtq.bench.quantizing`: how long a recipe takes on a network, and the memory that it takes, as a row of a table.

python -m vggtq.bench.quantizing model=vggt_1b model.source=null model.image_size=224 calibration.samples=2 scheme=gptq_w4a16

One scheme per process, for the peak of memory is that of the process.
"""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from vggtq.allocation import find_bits
from vggtq.calibration_data import Samples
from vggtq.command_line import execute
from vggtq.config import Config
from vggtq.environment import make_deterministic, resolve_device
from vggtq.finetuning import quantize_model_
from vggtq.models.loading import share_parameters
from vggtq.progress import Steps
from vggtq.run import composed

HELP = """Quantizes a model in place, and prints how long it took and how much memory, as a row of a Markdown table.

  python -m vggtq.bench.quantizing model=vggt_1b model.source=null model.image_size=224 calibration.samples=2 scheme=awq

  model=, scheme=, calibration=, device=, …    as for python -m vggtq.run

With model.source=null the weights are random: their values change neither times nor memory. CPU seconds count all
threads; they mean something on a busy machine, too.
"""
HEADER = "| scheme | layers | calibration, s | all, s | CPU, s | peak memory before, GiB | peak memory, GiB |"


def row(config: Config) -> str:
    """One line of a Markdown table, in the order of HEADER. Raises VggtqError."""
    device = resolve_device(config.device)
    make_deterministic(config.seed, device)
    samples = Samples.of(config.calibration) if config.scheme.needs_calibration else None
    model = config.model.load(device)
    before = _peak_gib()
    started, cpu = time.perf_counter(), time.process_time()
    with Steps() as steps:
        if config.scheme.allocates and samples:
            steps.step("measuring what the bits of each layer cost")
            allocation, _ = find_bits(config, model, samples, steps)
            config = replace(config, scheme=allocation.scheme)
        steps.step(f"quantizing to {config.scheme.label}")
        # In place, as an export does; fine-tuning needs the float network as its teacher.
        student = share_parameters(model.module) if config.scheme.finetune.steps else model.module
        done, _ = quantize_model_(student, model, config, samples, steps, device)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    numbers = f"{done.calibration_seconds:.0f} | {seconds:.0f} | {cpu:.0f} | {before:.1f} | {_peak_gib():.1f}"
    return f"| {config.scheme.name} | {len(done.layers)} | {numbers} |"


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


def command(argv: Sequence[str]) -> None:
    """Prints the table. Raises VggtqError."""
    print(HEADER, row(composed(argv)), sep="\n")


if __name__ == "__main__":
    sys.exit(execute(sys.argv[1:], HELP, command))
