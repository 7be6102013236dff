"""`vggtq bench`: kernels, blocks and whole models beside those of other tools."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vggtq.files.atomic import write_text
from vggtq.machine.device import Device
from vggtq.machine.environment import Environment, environment
from vggtq.records.plain import plain
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option

OUT = Path("outputs/bench")
SECTIONS = ("kernels", "blocks", "models")
Rows = Iterator[list[dict[str, Any]]]


@dataclass
class Options:
    """The sections to measure."""

    sections: list[str] = option(
        "what to measure; frames: peak memory and latency against the number of frames; windows: trajectories of long walks",
        list(SECTIONS),
        choices=(*SECTIONS, "frames", "windows"),
        words="SECTIONS",
    )


COMMAND = Command(
    "bench",
    Options,
    ("", "kernels blocks"),
    """\
Without arguments (make bench) about four minutes on two cores. BENCH_FULL=1 in the environment adds VGGT-1B with random
weights and compiled kernels: long, 10 GB of memory. Tools of others are measured where they are installed:
pip install 'vggtq[bench]'. Results: outputs/bench/{bench,frames,windows}.json, .md and .png.
""",
)


def _work(options: Options) -> None:
    from vggtq.machine.device import resolve_device

    device = resolve_device(Device())
    env = environment(device, seed=0)
    if chosen := [name for name in SECTIONS if name in options.sections]:
        _compare(chosen, device, env)
    if "frames" in options.sections:
        from vggtq.bench.frames import frames

        frames(device, env, OUT, full=_full())
    if "windows" in options.sections:
        from vggtq.bench.windows import windows

        windows(device, env, OUT)


def _compare(chosen: Sequence[str], device: torch.device, env: Environment) -> None:
    from vggtq.bench.plot import plot
    from vggtq.bench.table import print_table
    from vggtq.terminal.progress import Steps

    rows: list[dict[str, Any]] = []
    with Steps() as steps:
        for name in chosen:
            steps.step(f"measuring {name}")
            for case in _sections(device)[name]():
                rows += case
                _write(rows, env)  # after each case: a bench of VGGT-1B takes half an hour
                steps.step(f"measuring {name}, after {case[0]['case']}")
    plot(rows, env, OUT / "bench.png")
    print_table(rows, env)
    print(f"{OUT}/bench.json {OUT}/bench.md {OUT}/bench.png")


def _write(rows: list[dict[str, Any]], env: Environment) -> None:
    from vggtq.bench.table import markdown

    write_text(OUT / "bench.json", json.dumps(plain({"environment": env, "rows": rows}), indent=1))
    write_text(OUT / "bench.md", markdown(rows))


def _sections(device: torch.device) -> dict[str, Callable[[], Rows]]:
    from vggtq.bench.kernels import kernel_rows
    from vggtq.bench.networks import CASES, FULL_CASES, block_rows, model_rows

    return {
        "kernels": lambda: kernel_rows(device, full=_full()),
        "blocks": lambda: block_rows(device),
        "models": lambda: model_rows(device, FULL_CASES if _full() else CASES),
    }


def _full() -> bool:
    return os.environ.get("BENCH_FULL", "0") not in ("", "0")


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
