"""vggtq: which quantization of VGGT should you ship?

`quantize_(model, scheme)` works on any torch module; `python -m vggtq.run` is the experiment runner.
"""

from typing import TYPE_CHECKING, Any

from vggtq.quant.scheme import Activations, Layers, Mixed, Scheme, Weights

if TYPE_CHECKING:
    from vggtq.quant.quantize import Quantization, quantize_

__version__ = "0.1.0"
__all__ = ["Activations", "Layers", "Mixed", "Quantization", "Scheme", "Weights", "quantize_"]


def __getattr__(name: str) -> Any:
    # torch takes over a second to import; a configuration mistake should not have to wait for it.
    if name in ("Quantization", "quantize_"):
        from vggtq.quant import quantize

        return getattr(quantize, name)
    raise AttributeError(f"module 'vggtq' has no attribute {name!r}")
