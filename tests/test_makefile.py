"""What the targets of the Makefile remove."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_clean_leaves_results_and_environment_and_distclean_does_not() -> None:
    clean, distclean = (make("--dry-run", target).split() for target in ("clean", "distclean"))
    assert "build" in clean and not {"outputs", ".venv"} & set(clean)
    assert {"outputs", ".venv", *clean} <= set(distclean)


def test_help_shows_every_target() -> None:
    shown = make("help")
    for target in ("run", "report", "lint", "clean", "distclean"):
        assert f"  make {target} " in shown
