"""Tiles of the CUDA products: a few candidates, the fastest of which is found once per shape and kept on disk by Triton.

Rows count in powers of four, so that another number of frames seldom means another search. Under Triton's interpreter the
first candidate is taken, for there is nothing to time. A search synchronises: let every shape run once before a capture.
"""

from collections.abc import Callable, Sequence
from typing import Any

import triton
from triton import knobs

# BLOCK_M × BLOCK_N outputs per program, BLOCK_K inputs at a time, warps, stages of the pipeline that loads ahead.
MATMUL_TILES = (
    (64, 64, 64, 4, 4),
    (16, 64, 256, 4, 4),
    (64, 128, 128, 4, 4),
    (128, 128, 128, 8, 4),
    (128, 256, 128, 8, 3),
    (256, 128, 128, 8, 3),
)
FEW_ROWS_TILES = ((16, 32, 128, 4, 4), (16, 64, 128, 4, 4), (64, 32, 128, 4, 3), (64, 64, 64, 4, 4))


def autotune(tiles: Sequence[tuple[int, ...]], key: list[str]) -> Callable[[Any], Any]:
    """Decorates a kernel that takes BLOCK_M, BLOCK_N, BLOCK_K and GROUP_M."""
    candidates = [
        triton.Config(
            {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8}, num_warps=warps, num_stages=stages
        )
        for m, n, k, warps, stages in (tiles[:1] if knobs.runtime.interpret else tiles)
    ]
    return triton.autotune(candidates, key, do_bench=_short_bench, cache_results=True)


def rows_bucket(rows: int) -> int:
    """The power of four at or above `rows`, at least 16."""
    bucket = 16
    while bucket < rows:
        bucket *= 4
    return bucket


def _short_bench(call: Callable[[], object], quantiles: Sequence[float]) -> Any:
    """Triton's own, with fewer milliseconds of repetition: the candidates differ by more than its noise."""
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)
