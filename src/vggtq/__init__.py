"""vggtq: which quantization of VGGT should you ship?

`quantize_(model, scheme)` works on any torch module, `load("model.safetensors").predict(images)` on exported models;
`python -m vggtq.run` is the experiment runner.
"""

import importlib
from typing import TYPE_CHECKING, Any

# The name of a package and of its function: bound here, so that importing the package later does not hide the function.
from vggtq.compare import compare
from vggtq.plugins import load_plugins
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.formats import Format, register_format
from vggtq.quant.scheme.methods import (
    Rounding,
    RoundingMethod,
    ScaleMethod,
    Transform,
    register_rounding,
    register_scale,
)
from vggtq.quant.scheme.parts import Layers, Mixed
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.version import __version__

if TYPE_CHECKING:
    from vggtq.api import quantize_, save, scheme_of
    from vggtq.artifact.read import QuantizedModel, load, load_into_
    from vggtq.metrics.table import Metric, register_metric
    from vggtq.quant.kernels.table import Kernel, register_kernel
    from vggtq.quant.walk.quantize import Quantization


__all__ = [
    "Activations",
    "Format",
    "Kernel",
    "Layers",
    "Metric",
    "Mixed",
    "Quantization",
    "QuantizedModel",
    "Rounding",
    "RoundingMethod",
    "ScaleMethod",
    "Scheme",
    "Transform",
    "Weights",
    "__version__",
    "compare",
    "load",
    "load_into_",
    "load_plugins",
    "quantize_",
    "register_format",
    "register_kernel",
    "register_metric",
    "register_rounding",
    "register_scale",
    "save",
    "scheme_of",
]

_LAZY = {
    **dict.fromkeys(("quantize_", "save", "scheme_of"), "vggtq.api"),
    "Quantization": "vggtq.quant.walk.quantize",
    **dict.fromkeys(("Kernel", "register_kernel"), "vggtq.quant.kernels.table"),
    **dict.fromkeys(("Metric", "register_metric"), "vggtq.metrics.table"),
    **dict.fromkeys(("QuantizedModel", "load", "load_into_"), "vggtq.artifact"),
}


def __getattr__(name: str) -> Any:
    # torch takes over a second to import; a configuration mistake should not have to wait for it.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vggtq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
