"""Everything that changes the bits of a result: hardware, libraries, threads, and the code of a network."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vggtq.machine import native
from vggtq.machine.source_code import digest_of

# Variables that set the instructions and the precision of oneDNN, MKL, ATen, our own kernels, cuBLAS and CUDA.
_NUMERIC_VARIABLES = (
    "ONEDNN_",
    "DNNL_",
    "MKL_",
    "ATEN_",
    "VGGTQ_MAX_ISA",
    "CUBLAS_",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32",
)


def numeric_machine(device: torch.device) -> dict[str, Any]:
    """Everything on this machine that changes the bits of a result: hardware, libraries, threads, and the
    switches for instructions and precision.
    """
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native_kernels": native.describe(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32] if cuda else None,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "variables": variables(_NUMERIC_VARIABLES),
    }


def variables(prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}


def code_digest(network: nn.Module) -> str | None:
    """SHA-256 over the source files beside the classes that `network` is made of, torch's own left out.

    Beside, since a block's file calls functions of its neighbours. None where a class has no file.
    """
    modules = {type(module).__module__ for module in network.modules()}
    files = [
        getattr(sys.modules[name], "__file__", None) for name in modules if name.partition(".")[0] != "torch"
    ]
    if None in files:
        return None
    return digest_of(tuple(sorted({str(Path(file).parent) for file in files if file})))


def cpu_name() -> str:
    """The processor's marketing name, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
