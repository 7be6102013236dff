"""Names the resource that ran out, memory or disk, in one line with the size that did not fit and a remedy.

The messages are those of torch's CUDA and CPU allocators, NumPy and the system. Where they name no size, the
line names none either. A process that the kernel kills for lack of memory reports nothing, and its run has no
record.
"""

import errno
import gc
import re
import sys
from typing import Any

from vggtq.errors import DiskFull, OutOfMemory, VggtqError

MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|alloc_cpu\.cpp|DefaultCPUAllocator: "
    r"(?:can't|not enough)|Unable to allocate|std::bad_alloc"
)
SIZE = re.compile(
    r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMGTPE]iB)|Unable to allocate ([\d.]+) ?(bytes|[KMGTPE]iB)"
)
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def exhausted(error: BaseException, config: dict[str, Any] | None) -> VggtqError | None:
    """`error` in the user's words if memory or disk ran out, else None. config: the plain configuration, for the remedy."""
    explained = _explained(error, str(error), config or {})
    if explained is not None:
        explained.__cause__ = error  # whose traceback the record keeps
    return explained


def _explained(error: BaseException, text: str, config: dict[str, Any]) -> VggtqError | None:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(text)):
        return OutOfMemory(_out_of_memory(text, config))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = error.strerror or "no space left"
        return DiskFull(
            f"{reason}: the run's files do not fit; free some space or choose another place, hydra.run.dir=DIR"
        )
    return None


def _out_of_memory(text: str, config: dict[str, Any]) -> str:
    asked = SIZE.search(text)
    what = f"{_readable(*filter(None, asked.groups()))} more did not fit" if asked else "an allocation failed"
    on_gpu = "CU" in text.partition("memory")[0] or "CUBLAS" in text
    fewer = "frames=N" if (config.get("dataset") or {}).get("frames") else "dataset.max_images=N"
    device = "device=cpu" if on_gpu else "device=cuda"
    place = "on the GPU" if on_gpu else "in memory"
    return (
        f"out of memory: {what} {place}; take fewer frames ({fewer}), smaller images "
        f"(model.image_size={_smaller(config)}) or another device ({device})"
    )


def _smaller(config: dict[str, Any]) -> int | str:
    model = config.get("model") or {}
    size, patch = model.get("image_size"), model.get("patch_size", 14)
    return max(patch, size // (2 * patch) * patch) if isinstance(size, int) else "N"


def _readable(number: str, unit: str) -> str:
    value, index = float(number), UNITS.index(unit)
    while value >= 1024 and index < len(UNITS) - 1:
        value, index = value / 1024, index + 1
    return f"{value:.4g} {UNITS[index]}"


def release_memory() -> None:
    """Releases the memory that a finished run left, for the next one of this process."""
    gc.collect()  # models and hooks refer to each other
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
