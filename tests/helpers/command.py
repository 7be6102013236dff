"""`python -m vggtq.…` as users call it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.forked import LONGEST_S, printed, started
from helpers.runs import TINY

FAST = [*TINY, "timing=off", "picture_frames=0", "fresh_memory=false"]


def vggtq(folder: Path, *arguments: str, module: str = "vggtq.run") -> subprocess.CompletedProcess[str]:
    """A finished command in a forked process: without the seconds that imports take."""
    with tempfile.TemporaryDirectory() as elsewhere:
        errors = Path(elsewhere, "stderr.txt")
        process = started(folder, *arguments, module=module, errors=errors)
        process.join(timeout=LONGEST_S)
        output, said = printed(folder), errors.read_text() if errors.exists() else ""
    (folder / "printed.txt").unlink()
    assert process.exitcode is not None, "it does not end"
    return subprocess.CompletedProcess(list(arguments), process.exitcode, output, said)


def vggtq_alone(folder: Path, *arguments: str, module: str = "vggtq.run") -> subprocess.CompletedProcess[str]:
    """A finished command in a process of its own, for what the start of a process, or its end, may change."""
    command = [sys.executable, "-m", module, *arguments]
    env = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
