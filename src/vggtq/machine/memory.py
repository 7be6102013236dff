"""Memory of this process: resident, at its peak, and freed memory that the C library's allocator keeps."""

import contextlib
import ctypes
import sys
from pathlib import Path

LAYERS_PER_RELEASE = 8
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def release_free_memory() -> None:
    """Gives free memory back to the system, where the C library can: some 50 ms after loading VGGT-1B."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def release_at_once(larger_than: int = 2**20) -> bool:
    """From now on, memory of more than so many bytes goes back to the system as soon as it is free; False without glibc.

    By itself the C library keeps up to 32 MiB of what was freed in pieces, and peaks grow by more than what is in use.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, larger_than))
    except (OSError, AttributeError):
        return False


def release_between_layers(done: int, total: int) -> None:
    """`release_free_memory` after every few of `total` layers, and after the last."""
    if done % LAYERS_PER_RELEASE == 0 or done == total:
        release_free_memory()


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
