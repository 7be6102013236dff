"""The library of native kernels (quant/kernels/native/), loaded with ctypes and set to an instruction set.

VGGTQ_MAX_ISA caps the instruction set: amx, avx512_bf16, avx512_vnni, avx_vnni, avx2, portable, or none, which leaves the
library unused.
VGGTQ_LIBRARY is another file to load, for tests of other builds.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from vggtq.errors import check_choice

log = logging.getLogger(__name__)

VARIABLE = "VGGTQ_MAX_ISA"
_INSTALLED = Path(__file__).parents[1] / "quant" / "kernels" / "native" / "vggtq_native.so"
FILE = Path(os.environ.get("VGGTQ_LIBRARY", _INSTALLED))
INTERFACE = 9  # as in interface.h
LEVELS = ("portable", "avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx")  # as in interface.h
CAPS = {"none": -1} | {name: level for level, name in enumerate(LEVELS)}
# Plain loops are slower than torch's float products: used only where they are asked for.
LEAST_LEVEL = LEVELS.index("avx2")


class Library:
    """The loaded library, set to one instruction set."""

    def __init__(self, path: Path, level: int) -> None:
        self._native = ctypes.CDLL(str(path))
        if self._native.vggtq_use_level(level) != 0:
            raise OSError(f"{path} has no kernels for {LEVELS[level]} that this CPU runs")
        self.isa = LEVELS[level]
        # Of everything but products in bfloat16, and of linear layers with rounded inputs, which tiles multiply.
        self.vectors = "avx512_vnni" if self.isa in ("avx512_bf16", "amx") else self.isa
        self.integers = self.isa if self.isa == "amx" else self.vectors
        self.lanes, self.panel = self._native.vggtq_lanes(), self._native.vggtq_panel()
        self.multiplies_bfloat16 = self._native.vggtq_multiplies_bfloat16() != 0
        self.attends_in_bfloat16 = self._native.vggtq_attends_in_bfloat16() != 0
        self._native.vggtq_use_threads(_gomp_parallel())  # a null pointer leaves it at one thread
        self.weight_bits: Callable[[int, int], int] = self._native.vggtq_weight_bits
        self.input_bits: Callable[[int, int], int] = self._native.vggtq_input_bits

    def linear(self, call: ctypes.Structure) -> bool:
        """vggtq_linear of interface.h. False without memory for the codes."""
        return bool(self._native.vggtq_linear(ctypes.byref(call)) == 0)

    def attention(self, call: ctypes.Structure) -> bool:
        """vggtq_attention of interface.h. False without memory for the codes."""
        return bool(self._native.vggtq_attention(ctypes.byref(call)) == 0)

    def convolve(self, call: ctypes.Structure) -> bool:
        """vggtq_convolve of interface.h. False without memory for the codes."""
        return bool(self._native.vggtq_convolve(ctypes.byref(call)) == 0)

    def rotate(self, call: ctypes.Structure) -> None:
        """vggtq_rotate of interface.h."""
        self._native.vggtq_rotate(ctypes.byref(call))


@functools.cache
def library() -> Library | None:
    """The library with the best instruction set that CPU, system and VGGTQ_MAX_ISA allow; None where torch has to do."""
    cap = max_level()
    if cap < 0:
        return None
    if problem() is not None:
        log.warning("native kernels are not used: %s", problem())
        return None
    level = _best_level(cap)
    return None if level is None else Library(FILE, level)


@functools.cache
def problem() -> str | None:
    """Why there is no library, None if there is one."""
    if not FILE.exists():
        return "the library was not built; install vggtq anew where a C++17 compiler is found"
    try:
        interface = ctypes.CDLL(str(FILE)).vggtq_interface()
    except (OSError, AttributeError) as error:
        return f"{FILE.name} cannot be loaded: {error}"
    if interface != INTERFACE:
        return f"{FILE.name} was built from other sources than these; install vggtq anew"
    return None


def describe() -> str:
    """The instruction set of native kernels or the reason why there are none, for the record and --version."""
    cap = max_level()
    if cap < 0:
        return f"not used: {VARIABLE}=none"
    level = None if problem() else _best_level(cap)
    return (
        LEVELS[level]
        if level is not None
        else problem() or "not used: this CPU has none of their instruction sets"
    )


def max_level() -> int:
    """VGGTQ_MAX_ISA as a level, -1 for none. Raises ConfigError for anything else."""
    name = os.environ.get(VARIABLE, LEVELS[-1])
    check_choice(VARIABLE, name, CAPS)
    return CAPS[name]


def _best_level(cap: int) -> int | None:
    """The best supported level up to `cap`; portable loops only where nothing else is allowed."""
    native = ctypes.CDLL(str(FILE))
    levels = range(cap, min(LEAST_LEVEL, cap) - 1, -1)
    return next((level for level in levels if native.vggtq_supports(level)), None)


def _gomp_parallel() -> ctypes.c_void_p:
    """Starts a team of threads of the OpenMP runtime that torch has loaded; null where torch has another kind of threads."""
    import torch  # which `vggtq --version` need not wait for

    torch_cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.cast(ctypes.CDLL(str(torch_cpu)).GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):
        return ctypes.c_void_p(None)
