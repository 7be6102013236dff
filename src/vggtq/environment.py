"""Where a run happened: versions, hardware, commit. Nothing that identifies the machine or its user."""

import functools
import os
import platform
import random
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vggtq
from vggtq.config import Device
from vggtq.errors import ConfigError
from vggtq.source_code import run_code

PACKAGES = (
    "torch",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pandas",
    "scikit-image",
    "pillow",
    "safetensors",
    "huggingface_hub",
)


def resolve_device(device: Device) -> torch.device:
    """The device to run on, with its threads set. Raises ConfigError for CUDA without a GPU."""
    if device.name == "cuda" and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
        raise ConfigError(f"device=cuda: {why}; use device=cpu or device=auto")
    # null is torch's own choice, not what an earlier run of this process asked for
    torch.set_num_threads(device.threads or _default_threads())
    name = device.name if device.name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@functools.cache
def _default_threads() -> int:
    return torch.get_num_threads()


def make_deterministic(seed: int, device: torch.device) -> None:
    """One seed for all generators, and kernels that give the same numbers in every run."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global generator is what third parties draw from
    torch.manual_seed(seed)
    if (
        device.type == "cuda"
    ):  # CPU kernels are deterministic, and asking for it imports a compiler for a second
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = (
            False  # TF32 convolutions are off by 1e-3, more than 8-bit weights cost
        )
        torch.backends.cuda.matmul.allow_tf32 = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory with NaN would find bugs, at the price of one more pass over everything that is timed.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def environment(device: torch.device, seed: int) -> dict[str, Any]:
    """The record's `environment`."""
    return {
        "vggtq": vggtq.__version__,
        "code": run_code(),
        **_commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; elsewhere a BF16 reference would be a straw man."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def cpu_name() -> str:
    """The processor's marketing name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit of the checkout that vggtq runs from, None where it is installed as a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        git = functools.partial(
            subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=10
        )
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        return {"commit": commit, "dirty": bool(git(["git", "status", "--porcelain"]).stdout.strip())}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
