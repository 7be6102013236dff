"""What the C library's allocator keeps of memory that is free again.

Building a network layer by layer leaves what is kept scattered among temporaries, whose pages would stay with the process: of
VGGT-1B in W8A8 620 MiB beside the 1371 that the model needs.
"""

import contextlib
import ctypes
import sys

LAYERS_PER_RELEASE = 8


def release_free_memory() -> None:
    """Gives it back to the system, where the C library can: some 50 ms after loading VGGT-1B."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def release_between_layers(done: int, total: int) -> None:
    """The same after every few of `total` layers, and after the last."""
    if done % LAYERS_PER_RELEASE == 0 or done == total:
        release_free_memory()
