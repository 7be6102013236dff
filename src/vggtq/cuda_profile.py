"""Where a model's time on a GPU goes: products, attention, convolutions, rounding, everything else, and gaps between kernels.

Kernels are told apart by their names, for a replayed CUDA graph knows no operators. The same table reads the names of ATen's
operators in a profile of the CPU.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import DeviceType, ProfilerActivity

from vggtq.errors import VggtqError

# The first that matches, without regard to case. Inductor names pointwise kernels after the products that they follow, and
# cuDNN names attention after convolutions, so these come first.
KINDS: tuple[tuple[str, str], ...] = (
    ("elementwise", r"^triton_(poi|per|red)_"),
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
