"""`vggtq compare`: every scheme on the same images, a report, and a folder to hand in."""

import sys
from collections.abc import Sequence

from vggtq.compare.runs import Options, measure_all
from vggtq.config.compose import run_candidates
from vggtq.report.__main__ import summary
from vggtq.terminal.command_line import execute, tell
from vggtq.terminal.help import Command

COMMAND = Command(
    "compare",
    Options,
    ("", "images=photos model=vggt_1b max_images=5 out=outputs/photos lang=zh"),
    """\
Measures FP32, four kinds of INT8, three of INT4, and PyTorch's own dynamic quantization; schemes=[…] takes any others. Writes
one folder for each run below out/runs, the report into out/report, and the hand-in into out/report/handin. The same command
continues after an interruption: what was measured is not measured again.
""",
    run_candidates,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all schemes measured, 1 an error or a scheme that failed, 130 or 143 interrupted."""
    return execute(argv, COMMAND, _work)


def _work(options: Options) -> int:
    report, complete = measure_all(options)
    tell(summary(report, options.lang))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
