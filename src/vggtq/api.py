"""Python functions to quantize a module of any kind and to save it; `load` and `compare` have modules of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vggtq import artifact
from vggtq.config.validate import composed
from vggtq.errors import QuantizationError, WeightsError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk import quantize

if TYPE_CHECKING:
    from vggtq.quant.walk.quantize import Quantization

MADE = "vggtq_quantization"  # the attribute that remembers how a module was quantized


def scheme_of(name: str, **values: Any) -> Scheme:
    """The named scheme of `vggtq run --help`, with other `bits`, `granularity` or `group_size`. Raises ConfigError."""
    given = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    return composed([f"scheme={name}", *given]).scheme


def quantize_(model: nn.Module, scheme: Scheme | str, **options: Any) -> "Quantization":
    """Quantizes the layers of `model` that `scheme` selects, in place. Works on any module.

    scheme: a Scheme or the name of one. options: those of `vggtq.quant.walk.quantize.quantize_`. Two of them are for users:
    `first_last`, the names of the layers that skip_first_last keeps in float, and `calibrate`, a function that runs the
    model on samples, for schemes with calibration. Raises ConfigError for an unknown name. Raises QuantizationError for
    patterns that match no layer, for weights that cannot be rounded (the message names the layer), and for schemes with
    fine-tuning or with bits found per layer.
    """
    recipe = scheme_of(scheme) if isinstance(scheme, str) else scheme
    if not isinstance(model, nn.Module) or not isinstance(recipe, Scheme):
        raise QuantizationError(
            f"quantize_(model, scheme): give a torch module and a Scheme or its name, got {type(model).__name__} and "
            f"{type(recipe).__name__}"
        )
    quantization = quantize.quantize_(model, recipe, **options)
    setattr(model, MADE, None if hasattr(model, MADE) else (recipe, quantization))
    return quantization


def save(model: nn.Module, path: Path | str) -> artifact.Saved:
    """Writes a module that `quantize_` quantized as one file, for `load_into_(module, path)`.

    The file gives memory as the origin of the float weights. Raises WeightsError if the module was not quantized or was
    quantized more than once, and DiskFull.
    """
    if getattr(model, MADE, None) is None:
        how = (
            "was quantized more than once" if hasattr(model, MADE) else "was not quantized by vggtq.quantize_"
        )
        raise WeightsError(
            f"save: this {type(model).__name__} {how}; quantize_ a float module once, then save it"
        )
    scheme, quantization = getattr(model, MADE)
    weights = WeightsInfo(type(model).__name__, "memory", fingerprint="")
    return artifact.save(model, path, scheme, quantization, weights)
