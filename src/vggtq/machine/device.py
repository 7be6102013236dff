"""The device of a run: which one, how many threads, and deterministic arithmetic."""

import functools
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vggtq.errors import ConfigError, check_choice

if TYPE_CHECKING:  # the configuration names Device, and is read before anything heavy is imported
    import torch

# The reference kernels may run there; without such a machine their results were never checked.
NO_MPS = "there are no kernels for Apple's GPUs, and none of the others was tested on them; use device=cpu"


@dataclass
class Device:
    """The device that models run on. auto: cuda where there is a CUDA GPU, else cpu. threads: CPU threads, null
    for torch's choice.
    """

    name: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.name == "mps":
            raise ConfigError(f"device=mps: {NO_MPS}")
        check_choice("device", self.name, ("auto", "cpu", "cuda"))
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"device.threads={self.threads}: use at least 1, or null for torch's choice")


def resolve_device(device: Device) -> "torch.device":
    """The device to run on, with its threads set. Raises ConfigError for CUDA without a GPU."""
    import torch

    if device.name == "cuda" and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
        raise ConfigError(f"device=cuda: {why}; use device=cpu or device=auto")
    # null is torch's own choice, not what an earlier run of this process asked for
    torch.set_num_threads(device.threads or _default_threads())
    name = device.name if device.name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@functools.cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


def make_deterministic(seed: int, device: "torch.device") -> None:
    """One seed for all generators, and kernels that give the same numbers in every run."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global generator is what third parties draw from
    torch.manual_seed(seed)
    # CPU kernels are deterministic, and asking for it imports a compiler for a second.
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        # TF32 convolutions are off by 1e-3, more than 8-bit weights cost.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory with NaN would find bugs, at the price of one more pass over everything that is timed.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def has_bf16(device: "torch.device") -> bool:
    """Whether the hardware multiplies bfloat16 itself; elsewhere a BF16 reference would be a straw man."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
