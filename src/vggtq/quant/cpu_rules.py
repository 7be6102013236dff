"""Which of several CPU kernels that compute the same numbers a layer gets: by the shape of its weight and by the CPU.

Static rules from measured rounds (docs/benchmarks.md, "Which kernel computes a layer"); the record names the rule of each layer
that has one. How many tokens a call brings is not known when weights are laid out; only `blocked` layers, whose layout is the
same either way, look at it.
"""

import torch

from vggtq.quant.scheme import Weights

# Below, what a call costs beside its product rules: fbgemm rounds inputs while it packs them, in one operator.
SMALL_WEIGHT = 2**18


def int8_by_fbgemm(spec: Weights, shape: tuple[int, int], saturates: bool) -> str | None:
    """Why W8A8 of (out, in) weights is multiplied by fbgemm instead of oneDNN; None where it is not.

    saturates: the CPU's products of 8-bit codes do, so that it has no VNNI.
    """
    if shape[0] * shape[1] <= SMALL_WEIGHT:
        return f"fbgemm instead of oneDNN: at most {SMALL_WEIGHT} weights, where its rounding costs less"
    if saturates:
        return "fbgemm instead of oneDNN: without VNNI products cost the same, and its rounding costs less"
    if not spec.symmetric and not has_amx():
        return "fbgemm instead of oneDNN: it subtracts the weights' zero points on the way"
    return None


def half_in_blocks(shape: tuple[int, int]) -> str | None:
    """Why float16 weights are widened block by block and multiplied by MKL instead of by fbgemm; None where they are not."""
    if has_amx():
        return "blocks instead of fbgemm: on CPUs with AMX float32 products of whole blocks are faster"
    if not has_avx512() and shape[0] * shape[1] <= SMALL_WEIGHT:
        return f"blocks instead of fbgemm: at most {SMALL_WEIGHT} weights without AVX-512"
    return None


def has_avx512() -> bool:
    """Whether torch uses AVX-512 here."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_amx() -> bool:
    """Whether the CPU has AMX and torch uses what it offers."""
    return has_avx512() and bool(torch.cpu._is_amx_tile_supported())
