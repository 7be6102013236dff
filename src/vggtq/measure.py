"""Cost: paired latency, and the memory of this process.

Latency is measured in pairs within one process: reference and quantized model alternate, and who goes first alternates too, so
that drift of the clock, of the caches and of the machine's other work hits both alike. A speed-up is the median of the ratios
within pairs; all samples are kept.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def paired_latency(
    reference: Callable[[], object],
    quantized: Callable[[], object],
    rounds: int,
    warmup: int,
    device: torch.device,
) -> dict[str, Any]:
    """Times both, `rounds` pairs after `warmup` pairs. Returns the entry of one reference in the record's `latency`."""
    calls = {"reference": reference, "quantized": quantized}
    for _ in range(warmup):
        for call in calls.values():
            call()
    samples = interleaved_latency(calls, dict.fromkeys(calls, rounds), device)
    reference_ms, quantized_ms = samples["reference"], samples["quantized"]
    ratios = [r / q for r, q in zip(reference_ms, quantized_ms, strict=True)]
    low, high = quartiles(ratios)
    return {
        "reference_ms": reference_ms,
        "quantized_ms": quantized_ms,
        "ratios": ratios,
        "speedup": statistics.median(ratios),
        "speedup_q25": low,
        "speedup_q75": high,
    }


def interleaved_latency(
    calls: Mapping[str, Callable[[], object]], rounds: Mapping[str, int], device: torch.device
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


def quartiles(samples: list[float]) -> tuple[float, float]:
    """First and third quartile; of one sample, the sample."""
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def timed_ms(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, until the device has finished."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return (time.perf_counter() - started) * 1e3


class OtherWork:
    """How busy other processes kept this machine within a `with` block: `share` of all processors' time, or None.

    What a hypervisor gave to other machines counts too. None where there is no /proc/stat.
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


def reset_peak() -> bool:
    """Makes the peak of resident memory start anew; False where the system does not allow it (only Linux does)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def rss_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_rss_bytes() -> int:
    """The highest resident memory since `reset_peak`, or since the process started where that is not possible."""
    peak = _status_bytes("VmHWM")
    return peak if peak is not None else _lifetime_peak()


def _status_bytes(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return None


def _lifetime_peak() -> int:
    import resource  # not on Windows, which has no peak to read here

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
