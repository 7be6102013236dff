"""The capabilities of this machine's GPU and its software, asked once."""

import functools
import importlib.util

import torch

NO_GPU, AMPERE, ADA, HOPPER = (0, 0), (8, 0), (8, 9), (9, 0)


def capability(device: torch.device) -> tuple[int, int]:
    """CUDA's compute capability, e.g. (9, 0) for Hopper; (0, 0) without an NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return NO_GPU
    return torch.cuda.get_device_capability(device)


@functools.cache
def triton_problem() -> str | None:
    """Why Triton's kernels cannot run here, None where they can. Found by running one: compilers fail in many ways."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install vggtq[cuda]"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    from vggtq.quant.kernels.cuda.triton_rows import quantize_rows

    try:
        quantize_rows(torch.ones(1, 16, device="cuda"), None, None, 0.0, 8, False, "none")
    except Exception as error:  # a missing C compiler, an unknown GPU, a broken installation
        return f"Triton cannot run a kernel: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return None


def runs_triton(device: torch.device, least: tuple[int, int]) -> bool:
    """Whether Triton's kernels run on this device and it has at least this compute capability."""
    return capability(device) >= least and triton_problem() is None


def output_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of nn.Linear's output for an input of this dtype: autocast's where it is on, else its own."""
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        return torch.get_autocast_dtype(device.type)
    return dtype
