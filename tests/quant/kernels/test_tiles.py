"""The products by tiles of AMX and in bfloat16 on any CPU: a build with plain C++ in their place passes the tests of native
kernels.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vggtq.machine import native

ROOT = Path(__file__).parents[3]
CMAKE = (sys.executable, "-m", "cmake")
TOPICS = ("products", "floats", "process")
TESTED = (
    "integers_give or references or threads or beyond_a_buffer or broken_rows_stay or come_back or saturates"
    " or cache_holds or bfloat16"
)


@pytest.mark.skipif(native.problem() is not None, reason=f"no native kernels: {native.problem()}")
def test_tiles_compute_what_integers_give(tmp_path: Path) -> None:
    source = ROOT / "src/vggtq/quant/kernels/native/cmake"
    ran(*CMAKE, "-S", source, "-B", tmp_path, "-DVGGTQ_PLAIN_TILES=ON")
    ran(*CMAKE, "--build", tmp_path)
    library = {"VGGTQ_LIBRARY": str(tmp_path / "vggtq_native.so"), "OMP_NUM_THREADS": "1"}
    options = (
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-k",
        f"amx and ({TESTED}) and not attention or avx512_bf16 and bfloat16",
    )
    tests = [Path(__file__).with_name(f"test_native_{topic}.py") for topic in TOPICS]
    tests += [ROOT / f"tests/network/test_{name}_attention.py" for name in ("bfloat16", "native")]
    output = ran(sys.executable, "-m", "pytest", *options, *tests, **library)
    assert " passed" in output and "failed" not in output and "skipped" not in output, output


def ran(*command: str | Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
