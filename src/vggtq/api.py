"""What Python programs call besides `load` and `compare`: quantize a module of any kind, and save it."""

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
    """A recipe of `vggtq run --help` by its name, with other `bits`, `granularity` or `group_size`. Raises ConfigError."""
    given = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    return composed([f"scheme={name}", *given]).scheme


def quantize_(model: nn.Module, scheme: Scheme | str, **options: Any) -> "Quantization":
    """Replaces the layers of `model` that `scheme`, a recipe or its name, selects, in place; works on any module.

    options: those of `vggtq.quant.walk.quantize.quantize_`, of which users need two: `first_last`, the names of layers that
    skip_first_last keeps, and `calibrate`, a function that runs the model on samples, for recipes that look at inputs. Raises
    ConfigError for a name that does not exist, QuantizationError for patterns that match nothing, for weights that cannot be
    rounded (the layer is named), and for recipes that are fine-tuned or find their bits.
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

    Of its float weights the file says only that they were in memory. Raises WeightsError where the module was not quantized, or
    more than once, and DiskFull.
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
