"""Cost: paired latency, and the memory of this process.

Latency is measured in pairs within one process: reference and quantized model alternate, and who goes first alternates too, so
that drift of the clock, of the caches and of the machine's other work hits both alike. A speed-up is the median of the ratios
within pairs; all samples are kept.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class PairedLatency:
    """One reference beside the quantized model, in pairs. A ratio is reference over quantized of one pair."""

    reference_ms: list[float]  # all samples
    quantized_ms: list[float]  # of the same rounds
    ratios: list[float]  # of each pair
    speedup: float  # median of the ratios
    speedup_q25: float  # first quartile of the ratios
    speedup_q75: float  # third quartile of the ratios


Seconds = dict[str, float | None]
"""The seconds that each step took, for the record; None where nothing was to be done."""


@contextmanager
def timed(seconds: Seconds, key: str) -> Iterator[None]:
    """Adds the seconds that the block took to seconds[key]."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[key] = (seconds.get(key) or 0.0) + time.perf_counter() - started


def paired_latency(
    reference: Callable[[], object],
    quantized: Callable[[], object],
    rounds: int,
    warmup: int,
    device: "torch.device",
) -> PairedLatency:
    """Times both, `rounds` pairs after `warmup` pairs."""
    calls = {"reference": reference, "quantized": quantized}
    for _ in range(warmup):
        for call in calls.values():
            call()
    samples = interleaved_latency(calls, dict.fromkeys(calls, rounds), device)
    reference_ms, quantized_ms = samples["reference"], samples["quantized"]
    ratios = [r / q for r, q in zip(reference_ms, quantized_ms, strict=True)]
    low, median, high = quartiles(ratios)
    return PairedLatency(reference_ms, quantized_ms, ratios, median, low, high)


def interleaved_latency(
    calls: Mapping[str, Callable[[], object]], rounds: Mapping[str, int], device: "torch.device"
) -> dict[str, list[float]]:
    """Milliseconds of every call, once in each of its first rounds[name] rounds.

    The order changes from round to round as in a Williams square (Williams 1949): over as many rounds as there are calls,
    each call comes in every place and, if their number is even, after every other call once. What one call leaves behind
    in caches and in the clock's frequency thus spoils no other call in particular.
    """
    names, count = list(calls), len(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    zigzag = [(i + 1) // 2 if i % 2 else -i // 2 for i in range(count)]  # 0, 1, -1, 2, -2, …
    for round_ in range(max(rounds.values())):
        for place in zigzag:
            name = names[(place + round_) % count]
            if round_ < rounds[name]:
                samples[name].append(timed_ms(calls[name], device))
    return samples


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of at least one sample, interpolated linearly."""
    # the standard library's: for ten samples, NumPy takes fifty times as long to start
    several = samples if len(samples) > 1 else [*samples, *samples]
    low, median, high = statistics.quantiles(several, n=4, method="inclusive")
    return low, median, high


def timed_ms(call: Callable[[], object], device: "torch.device") -> float:
    """Milliseconds of one call, until the device has finished."""
    synchronize = _synchronize(device)
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return (time.perf_counter() - started) * 1e3


def _synchronize(device: "torch.device") -> Callable[[], object]:
    if device.type != "cuda":
        return lambda: None
    import torch

    return torch.cuda.synchronize


class OtherWork:
    """The load by other processes in a `with` block: `share` of all processors' time on this machine, or None.

    Time that a hypervisor gave to other machines counts too. None where there is no /proc/stat.
    """

    share: float | None = None

    def __enter__(self) -> "OtherWork":
        self._before = _busy_and_own_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        after, elapsed = _busy_and_own_seconds(), time.perf_counter() - self._started
        if self._before is not None and after is not None and elapsed > 0:
            others = (after[0] - self._before[0]) - (after[1] - self._before[1])
            self.share = min(max(0.0, others / (elapsed * (os.cpu_count() or 1))), 1.0)


def _busy_and_own_seconds() -> tuple[float, float] | None:
    """Since the start, summed over processors: seconds not idle of the machine, and seconds of this process."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    busy = sum(ticks) - ticks[3] - ticks[4]  # idle and waiting for disks
    return busy / os.sysconf("SC_CLK_TCK"), time.process_time()
