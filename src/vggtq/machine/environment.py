"""The environment of a run: versions, hardware, commit. Nothing identifies the machine or its user."""

import functools
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.machine import native
from vggtq.machine.source_code import run_code
from vggtq.plugins import plugins_described
from vggtq.version import __version__

if TYPE_CHECKING:
    import torch

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


@dataclass
class Environment:
    """Software and hardware of the run. Nothing identifies the machine or its user."""

    vggtq: str  # version
    code: str  # first 12 hex digits over the source that runs are made of
    commit: str | None  # of the checkout; null where vggtq is installed as a wheel
    dirty: bool | None  # the checkout had changes beside the commit; null likewise
    python: str  # version
    versions: dict[str, str]  # of the packages that matter, by name
    platform: str  # system and architecture
    cpu: str  # its name
    cpu_capability: str  # instruction set that torch uses
    gpu: str | None  # its name; null on a CPU
    device: str  # `cpu` or `cuda`
    threads: int  # of the CPU
    seed: int  # of everything that is drawn
    # `module` and `sha256` (of its source) of each plugin that was loaded; absent without any
    plugins: list[dict[str, str]] | None = field(default=None, metadata={"optional": True})
    # instruction set of vggtq's own kernels for the CPU, or why there are none; absent in records older than those
    native_kernels: str | None = field(default=None, metadata={"optional": True})


def environment(device: "torch.device", seed: int) -> Environment:
    """This process on `device`."""
    import torch

    from vggtq.machine.identity import cpu_name

    commit, dirty = _commit()
    return Environment(
        vggtq=__version__,
        code=run_code(),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        platform=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        device=device.type,
        threads=torch.get_num_threads(),
        seed=seed,
        plugins=plugins_described() or None,
        native_kernels=native.describe(),
    )


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
    """The commit that vggtq runs from and whether there are changes beside it; None where it is installed as a wheel."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None, None
    try:
        git = functools.partial(
            subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=10
        )
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit, bool(git(["git", "status", "--porcelain"]).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None, None
