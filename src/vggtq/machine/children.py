"""Processes that this one has started, when it is interrupted itself."""

import subprocess
from typing import Any

TO_END_S = 3.0


def end(child: "subprocess.Popen[Any]") -> None:
    """Returns when `child` has ended. A terminal sends Ctrl-C to both processes, `kill` and schedulers to one alone."""
    try:
        child.wait(TO_END_S)  # a second signal would interrupt the writing of the record
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()
