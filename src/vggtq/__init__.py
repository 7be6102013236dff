"""vggtq: which quantization of VGGT should you ship?

`quantize_(model, scheme)` works on any torch module, `load("model.safetensors").predict(images)` on exported models;
`python -m vggtq.run` is the experiment runner.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vggtq.quant.scheme import Activations, Layers, Mixed, Rounding, Scheme, Transform, Weights

if TYPE_CHECKING:
    from vggtq.artifact import QuantizedModel, load, load_into_
    from vggtq.quant.quantize import Quantization, quantize_

__version__ = "0.1.0"
__all__ = [
    "Activations",
    "Layers",
    "Mixed",
    "Quantization",
    "QuantizedModel",
    "Rounding",
    "Scheme",
    "Transform",
    "Weights",
    "load",
    "load_into_",
    "quantize_",
]

_LAZY = {
    **dict.fromkeys(("Quantization", "quantize_"), "vggtq.quant.quantize"),
    **dict.fromkeys(("QuantizedModel", "load", "load_into_"), "vggtq.artifact"),
}


def __getattr__(name: str) -> Any:
    # torch takes over a second to import; a configuration mistake should not have to wait for it.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vggtq' has no attribute {name!r}")
