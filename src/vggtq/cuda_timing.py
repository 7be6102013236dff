"""Timing on a GPU: both sides of a comparison as CUDA graphs, in pairs, by the GPU's own clock.

Without graphs a small network waits for Python between kernels, and a comparison of kernels would compare launches.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from vggtq.measure import quartiles


def captured(call: Callable[[], object], warmup: int = 3) -> Callable[[], None]:
    """`call` as a CUDA graph; its replay. Runs it before, so that searches for tiles and compilation stay outside.

    The graph reads and writes the tensors that `call` saw, at their addresses: the closure has to keep them.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> None:
        graph.replay()

    replay.outputs = kept  # type: ignore[attr-defined]  # as long as the graph lives, so does the memory that it writes
    return replay


def elapsed_ms(call: Callable[[], object]) -> float:
    """Milliseconds between two events around one call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def paired(
    reference: Callable[[], object],
    candidate: Callable[[], object],
    rounds: int,
    clock: Callable[[Callable[[], object]], float] = elapsed_ms,
) -> dict[str, Any]:
    """Times both in alternation, who goes first alternating too, after two pairs that do not count.

    Returns all samples in ms, and median and quartiles of the ratios within pairs; above 1 the candidate is faster.
    """
    first: list[float] = []
    second: list[float] = []
    for round_ in range(-2, rounds):
        order = [(reference, first), (candidate, second)]
        for call, samples in order if round_ % 2 == 0 else reversed(order):
            time = clock(call)
            if round_ >= 0:
                samples.append(time)
    ratios = [r / c for r, c in zip(first, second, strict=True)]
    low, high = quartiles(ratios)
    return {
        "reference_ms": first,
        "candidate_ms": second,
        "speedup": statistics.median(ratios),
        "speedup_q25": low,
        "speedup_q75": high,
    }
