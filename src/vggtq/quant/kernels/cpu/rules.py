"""The choice among CPU kernels that compute the same numbers, by the shape of a layer's weight and by the CPU.

Static rules from measured rounds (docs/measurements/2026-11-21-zen4.md, "Which kernel computes a layer"); the
record names the rule of each layer that has one. The number of tokens in a call is not known when weights are
laid out.
"""

import os

import torch

from vggtq.machine import native

SMALL_WEIGHT = 2**18


def int8_on_amx(shape: tuple[int, int]) -> bool:
    """Whether W8A8 of (out, in) symmetric weights is left to oneDNN: it multiplies on AMX, and the native library cannot.

    The library cannot if its compiler's assembler did not know AMX. Small weights stay with it, since the cost of a call
    beside its product dominates there, and so do all weights if VGGTQ_MAX_ISA asks for less than AMX.
    """
    asked = os.environ.get(native.VARIABLE, "amx") == "amx"
    found = native.library() if asked and has_amx() else None
    return found is not None and found.isa != "amx" and shape[0] * shape[1] > SMALL_WEIGHT


def has_avx512() -> bool:
    """Whether torch uses AVX-512 here."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_amx() -> bool:
    """Whether the CPU has AMX and torch uses it."""
    return has_avx512() and bool(torch.cpu._is_amx_tile_supported())
