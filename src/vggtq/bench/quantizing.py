"""`vggtq bench quantizing`: how long a recipe takes on a network, and the memory that it takes, as a row of a table."""

import resource
import sys
import time
from dataclasses import dataclass, replace

from vggtq.config.compose import run_candidates
from vggtq.config.schema import Config
from vggtq.config.validate import composed
from vggtq.prepare.quantized import prepared, quantize
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option
from vggtq.terminal.progress import Steps


@dataclass
class Options:
    """The configuration of a run."""

    overrides: list[str] = option(
        "as for vggtq run: model=, scheme=, calibration=, device=, …", [], rest=True
    )


COMMAND = Command(
    "bench quantizing",
    Options,
    (
        "scheme=gptq_w4a16",
        "model=vggt_1b model.source=null model.image_size=224 calibration.samples=2 scheme=awq",
    ),
    """\
The model is quantized in place, one scheme per process, for the peak of memory is that of the process. Nothing is taken from
a cache. With model.source=null the weights are random: their values change neither times nor memory. CPU seconds count all
threads; they mean something on a busy machine, too.
""",
    run_candidates,
)
HEADER = "| scheme | layers | calibration, s | all, s | CPU, s | peak memory before, GiB | peak memory, GiB |"


def row(config: Config) -> str:
    """One line of a Markdown table, in the order of HEADER. Raises VggtqError."""
    with Steps() as steps:
        source = prepared(replace(config, cache=None), steps)
        before = _peak_gib()
        started, cpu = time.perf_counter(), time.process_time()
        done = quantize(source, steps, {}, keep_float=False).quantization
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    numbers = f"{done.calibration_seconds:.0f} | {seconds:.0f} | {cpu:.0f} | {before:.1f} | {_peak_gib():.1f}"
    return f"| {config.scheme.name} | {len(done.layers)} | {numbers} |"


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


main = entry(COMMAND, lambda options: print(HEADER, row(composed(options.overrides)), sep="\n"))

if __name__ == "__main__":
    sys.exit(main())
