"""Settings that hold for all tests, and the fixtures that several files share."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

# Before torch is loaded. Threads that wait for work in a loop would take the processors from the tests beside them.
os.environ["OMP_WAIT_POLICY"] = "passive"

import hydra
import pytest
from hypothesis import settings

from helpers import composing
from helpers.instruction_sets import capped
from vggtq.machine import native

# No test asserts a time, not even one of a single example.
settings.register_profile("vggtq", deadline=None)
settings.load_profile("vggtq")

# Logging that is configured anew, as submitit does on import, closes the stream of absl's handler unless it is standard error.
# OpenVINO and TensorBoard import absl during a test, when standard error is pytest's own file.
with contextlib.suppress(ImportError):
    from absl.logging import get_absl_handler

    get_absl_handler().python_handler.stream = sys.__stderr__

hydra.compose = composing.kept  # in this process; commands in processes of their own have Hydra's


# Each takes as long as hundreds of others; begun last, one would leave the other processes idle.
LONG = ("test_kill.py", "test_launchers.py", "test_wheel.py", "test_triton_compile.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    gc.freeze()  # what torch and its friends left on import is searched by no collection from here on


@pytest.fixture(params=native.LEVELS[::-1])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of the native kernels that this CPU has, in turn."""
    if native.problem() is not None:
        assert "VGGTQ_LIBRARY" not in os.environ, native.problem()
        pytest.skip(f"no native kernels: {native.problem()}")
    with capped(request.param):
        found = native.library()
        if found is None or found.isa != request.param:
            pytest.skip(f"this CPU has no {request.param}")
        yield request.param
