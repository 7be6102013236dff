"""`python -m vggtq.bench [kernels] [blocks] [models]`, all three without arguments; `python -m vggtq.bench frames`.

Writes `outputs/bench/bench.json`, `bench.md` and `bench.png`, or `frames.json` and `frames.png`. BENCH_FULL=1 adds VGGT-1B.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vggtq.atomic import replacing
from vggtq.command_line import execute
from vggtq.config import Device
from vggtq.errors import ConfigError, did_you_mean
from vggtq.record import jsonable

OUT = Path("outputs/bench")
HELP = """\
Speed, error and bytes of every kernel here, of transformer blocks and of whole models, beside what others offer.

  python -m vggtq.bench                    kernels, blocks and models (make bench): about four minutes on two cores
  python -m vggtq.bench kernels blocks     some of them
  python -m vggtq.bench frames             peak memory and latency against the number of frames
  BENCH_FULL=1 python -m vggtq.bench …     VGGT-1B with random weights and compiled kernels too: long, 10 GB of memory

Tools of others are measured where they are installed: pip install 'vggtq[bench]'.
Results: outputs/bench/{bench,frames}.json, .md and .png.
"""
SECTIONS = ("kernels", "blocks", "models")
Rows = Iterator[list[dict[str, Any]]]


def main() -> None:
    """Entry point."""
    argv = sys.argv[1:]
    sys.exit(execute(argv or list(SECTIONS), HELP, _work))


def _work(argv: Sequence[str]) -> None:
    for name in argv:
        if name not in (*SECTIONS, "frames"):
            raise ConfigError(
                f"{name} is not one of {', '.join(SECTIONS)}, frames{did_you_mean(name, SECTIONS)}"
            )
    from vggtq.environment import environment, resolve_device

    device = resolve_device(Device())
    env = environment(device, seed=0)
    if chosen := [name for name in SECTIONS if name in argv]:
        _compare(chosen, device, env)
    if "frames" in argv:
        from vggtq.bench.frames import frames

        frames(device, env, OUT, full=_full())


def _compare(chosen: Sequence[str], device: torch.device, env: dict[str, Any]) -> None:
    from vggtq.bench.plot import plot
    from vggtq.bench.table import markdown, print_table
    from vggtq.progress import Steps

    rows: list[dict[str, Any]] = []
    with Steps() as steps:
        for name in chosen:
            steps.step(f"measuring {name}")
            for case in _sections(device)[name]():
                rows += case
                steps.step(f"measuring {name}, after {case[0]['case']}")
    write_text(OUT / "bench.json", json.dumps(jsonable({"environment": env, "rows": rows}), indent=1))
    write_text(OUT / "bench.md", markdown(rows))
    plot(rows, env, OUT / "bench.png")
    print_table(rows, env)
    print(f"{OUT}/bench.json {OUT}/bench.md {OUT}/bench.png")


def _sections(device: torch.device) -> dict[str, Callable[[], Rows]]:
    from vggtq.bench.blocks import block_rows
    from vggtq.bench.kernels import kernel_rows
    from vggtq.bench.models import CASES, FULL_CASES, model_rows

    return {
        "kernels": lambda: kernel_rows(device, full=_full()),
        "blocks": lambda: block_rows(device),
        "models": lambda: model_rows(device, FULL_CASES if _full() else CASES),
    }


def _full() -> bool:
    return os.environ.get("BENCH_FULL", "0") not in ("", "0")


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
