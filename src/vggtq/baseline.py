"""The FP32 model's outputs, computed once for all runs that compare with them.

What they depend on is in their identity: the weights, the code and the settings of the network, the images, and everything
about the machine that changes the last bits of a float product. Outputs of another identity are other outputs, so nothing can
go stale.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.environment import cpu_name
from vggtq.models.loading import LoadedModel
from vggtq.source_code import digest_of, package_digest
from vggtq.tensor_cache import TensorCache

# What tells oneDNN, MKL, ATen, cuBLAS and CUDA which instructions and which precision to use.
_NUMERIC_VARIABLES = (
    "ONEDNN_",
    "DNNL_",
    "MKL_",
    "ATEN_",
    "CUBLAS_",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32",
)


class Baseline:
    """The reference side of a comparison. `settings`: whatever shapes the network besides its weights, as text."""

    def __init__(self, model: LoadedModel, settings: str, device: torch.device, folder: Path | None) -> None:
        code = code_digest(model.module)
        # Without its code, a network that was changed cannot be told from one that was not.
        self.cache = TensorCache(folder if code else None)
        if folder and not code:
            self.cache.notes.append(
                "the network's source code is not in files, so its FP32 outputs are not cached"
            )
        self._identity = {
            "fingerprint": model.weights.fingerprint,
            "settings": hashlib.sha256(
                settings.encode()
            ).hexdigest(),  # paths of this machine stay out of files
            "code": code,
            "dtype": "float32",
            "machine": numeric_machine(device),
        }

    def outputs(
        self, images: Tensor, images_sha256: str, predict: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], bool]:
        """The FP32 outputs for `images` (S, 3, H, W), by `predict` unless they are known, and whether they were."""
        return self.cache.get(self._of(images, images_sha256, "outputs"), predict)

    def numbers(
        self, name: str, images: Tensor, images_sha256: str, measure: Callable[[], dict[str, float | None]]
    ) -> tuple[dict[str, float | None], bool]:
        """What `measure` returns about the FP32 model on these images, cached like its outputs; None values are kept.

        Bytes and seconds depend on all code that loads and predicts and on the allocator, not on the network alone.
        """

        def compute() -> dict[str, Tensor]:
            # float64 holds bytes exactly up to 8 PiB; NaN stands for None.
            return {
                key: torch.tensor(float("nan") if value is None else value, dtype=torch.float64)
                for key, value in measure().items()
            }

        identity = self._of(images, images_sha256, name) | {
            "package": package_digest(),
            "allocator": _variables(("MALLOC_", "LD_PRELOAD", "PYTORCH_")),
        }
        found, cached = self.cache.get(identity, compute)
        return {key: None if value.isnan() else _number(float(value)) for key, value in found.items()}, cached

    def _of(self, images: Tensor, images_sha256: str, what: str) -> dict[str, Any]:
        return self._identity | {"what": what, "images": images_sha256, "shape": list(images.shape)}


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value


def numeric_machine(device: torch.device) -> dict[str, Any]:
    """What changes the bits of a result: hardware, libraries, threads, and the switches for instructions and precision."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32] if cuda else None,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "variables": _variables(_NUMERIC_VARIABLES),
    }


def _variables(prefixes: tuple[str, ...]) -> dict[str, str]:
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
