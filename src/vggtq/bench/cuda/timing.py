"""Timing on a GPU, and where the time goes.

Both sides of a comparison run as CUDA graphs, in pairs, by the GPU's own clock: without graphs a small network waits for Python
between kernels, and a comparison of kernels would compare launches. A profile tells apart products, attention, convolutions,
rounding, everything else, and gaps between kernels, by the kernels' names, for a replayed graph knows no operators; the same
table reads the names of ATen's operators in a profile of the CPU.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import DeviceType, ProfilerActivity

from vggtq.errors import VggtqError
from vggtq.machine.timing import quartiles


def captured(call: Callable[[], object], warmup: int = 3) -> Callable[[], None]:
    """`call` as a CUDA graph; its replay. Runs it before, so that searches for tiles and compilation stay outside.

    The graph reads the tensors that `call` holds, a model's weights among them, at their addresses: the replay keeps it alive.
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

    replay.held = (call, kept)  # type: ignore[attr-defined]  # what the graph reads, and what it writes
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
    low, median, high = quartiles(ratios)
    return {
        "reference_ms": first,
        "candidate_ms": second,
        "speedup": median,
        "speedup_q25": low,
        "speedup_q75": high,
    }


# The first that matches, without regard to case. Inductor names pointwise kernels after the products that they follow, and
# cuDNN names attention after convolutions, and a bilinear upsampling is no linear, so these come first.
KINDS: tuple[tuple[str, str], ...] = (
    ("elementwise", r"^triton_(poi|per|red)_|upsample"),
    ("attention", r"flash|fmha|sdpa|attention"),
    ("rounding", r"quantize"),
    ("convolution", r"conv(?!ert)|fprop|dgrad|implicit_gemm|nchwtonhwc|nhwctonchw|im2col|winograd"),
    (
        "linear",
        r"gemm|gemv|nvjet|matmul|linear|(?<![a-z])(add|b|baddb)?mm(?![a-z])|splitk|cutlass|^triton_tem_",
    ),
)
OTHER = "elementwise"
# Spans that the profiler lists beside kernels although they only contain some.
SPANS = re.compile(r"^(## |Torch-Compiled|CompiledFunction|ProfilerStep)")


def kind_of(name: str) -> str:
    """One of linear, attention, convolution, rounding, elementwise for the name of a kernel or an ATen operator."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), OTHER)


def shares(events: Iterable[tuple[str, float]], wall: float | None = None) -> dict[str, float]:
    """Fractions of time per kind; they add up to 1. events: names and own times, in one unit.

    With `wall`, the time from start to end in the same unit, fractions are of that, and what no kernel fills is `gaps`.
    """
    spent: Counter[str] = Counter()
    for name, time in events:
        spent[kind_of(name)] += time  # type: ignore[assignment]  # a Counter of floats
    busy = sum(spent.values())
    if not busy > 0:
        raise VggtqError(
            "the profile holds no time; the profiler needs CUPTI, which CUDA's own packages bring along"
        )
    total = busy if wall is None else max(wall, busy)
    gaps = {} if wall is None else {"gaps": (total - busy) / total}
    return {kind: time / total for kind, time in spent.most_common()} | gaps


def profiled(call: Callable[[], object], device: torch.device, repeats: int = 3) -> list[tuple[str, float]]:
    """Names and own milliseconds per call: kernels on CUDA, ATen operators on a CPU. Longest first."""
    on_gpu = device.type == "cuda"
    call()
    with torch.profiler.profile(
        activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU], acc_events=True
    ) as profile:
        for _ in range(repeats):
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    events = [event for event in profile.key_averages() if _counts(event, on_gpu)]
    times = [(e.key, (e.self_device_time_total if on_gpu else e.self_cpu_time_total)) for e in events]
    return sorted(((name, us / 1e3 / repeats) for name, us in times), key=lambda item: -item[1])


def _counts(event: Any, on_gpu: bool) -> bool:
    return (event.device_type == DeviceType.CPU) != on_gpu and not SPANS.match(event.key)
