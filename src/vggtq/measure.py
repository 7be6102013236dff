"""Cost: paired latency and peak memory.

Latency is measured in pairs within one process: reference and quantized model alternate, and who goes first alternates too, so
that drift of the clock, of the caches and of the machine's other work hits both alike. A speed-up is the median of the ratios
within pairs; all samples are kept.
"""

import contextlib
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
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
    for _ in range(warmup):
        _timed(reference, device)
        _timed(quantized, device)
    reference_ms, quantized_ms = [], []
    for round_ in range(rounds):
        if round_ % 2 == 0:
            reference_ms.append(_timed(reference, device))
            quantized_ms.append(_timed(quantized, device))
        else:
            quantized_ms.append(_timed(quantized, device))
            reference_ms.append(_timed(reference, device))
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


def quartiles(samples: list[float]) -> tuple[float, float]:
    """First and third quartile; of one sample, the sample."""
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, until the device has finished."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return (time.perf_counter() - started) * 1e3


class PeakMemory:
    """Peak memory within a `with` block: resident memory of the process, and on CUDA what torch allocated.

    peak_bytes: the highest level; increase_bytes: above the level at entry. Linux lets a process reset its peak; elsewhere the
    peak since the start of the process is all there is, and the increase is None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.increase_bytes: int | None = None
        self.cuda_peak_bytes: int | None = None
        self.cuda_increase_bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        _release_free_memory()  # so that what an earlier prediction left behind does not hide what this one needs
        self._resettable = _reset_peak()
        self._before = _status_bytes("VmRSS")
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._cuda_before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        peak = _status_bytes("VmHWM")
        if self._resettable and peak is not None and self._before is not None:
            self.increase_bytes = max(0, peak - self._before)
        if self.device.type == "cuda":
            self.cuda_peak_bytes = torch.cuda.max_memory_allocated(self.device)
            self.cuda_increase_bytes = self.cuda_peak_bytes - self._cuda_before
        self.peak_bytes = peak if peak is not None else _lifetime_peak()


def _release_free_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


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
