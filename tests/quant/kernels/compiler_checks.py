"""The native kernels as every compiler builds them: no warnings, right results. Run by `make test-native`.

The file's name keeps it out of `make test`. What is not installed is skipped, and the reason says how to get it.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CMAKE = ROOT / "src/vggtq/quant/kernels/native/cmake"
SMOKE = Path(__file__).with_name("native_smoke.cpp")


@dataclass(frozen=True)
class Compiler:
    """package: of Debian. processor: as CMake calls it, where that is not this machine's. emulator: what runs its programs."""

    name: str
    package: str
    processor: str = ""
    emulator: str = ""


COMPILERS = (
    Compiler("g++", "g++"),
    Compiler("clang++", "clang"),
    Compiler("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu", "aarch64", "qemu-aarch64"),
)


def needed(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here: apt-get install {package}")


def ran(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: compiler.name)
def test_sources_compile_without_warnings_and_compute_rightly(compiler: Compiler, tmp_path: Path) -> None:
    needed(compiler.name, compiler.package)
    options = [f"-DCMAKE_CXX_COMPILER={compiler.name}", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    if compiler.processor:
        options += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={compiler.processor}"]
    cmake = (sys.executable, "-m", "cmake")
    ran(*cmake, "-S", CMAKE, "-B", tmp_path, *options, f"-DVGGTQ_SMOKE={SMOKE}")
    ran(*cmake, "--build", tmp_path, "--parallel", "2")
    program = [tmp_path / "vggtq_smoke"]
    if compiler.emulator:
        needed(compiler.emulator, "qemu-user")
        program.insert(0, Path(compiler.emulator))
    found = ran(*program)
    assert "portable, rotation" in found  # the last of its checks
