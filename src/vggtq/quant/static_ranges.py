"""Ranges of static activations, found after the weights: one pass of the quantized model over the calibration samples.

Every layer is observed at once, as it will run: behind its transform, fed by layers whose weights are rounded, and with inputs
that are still rounded one token at a time. A range is a few numbers and a histogram of fixed size, so that one pass does for
all layers.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.calibration import Calibrate, show
from vggtq.quant.input_range import InputRange
from vggtq.quant.layers import QuantConv
from vggtq.quant.linear import QuantLinear
from vggtq.quant.observers import RangeObserver, observed_range
from vggtq.quant.size import layer_name


def set_input_ranges_(model: nn.Module, calibrate: Calibrate) -> dict[str, InputRange]:
    """Gives every layer with static activations the range of its inputs; returns the ranges by the layers' float names.

    Raises QuantizationError for layers that no sample reaches, and for inputs that are not finite.
    """
    layers = static_layers(model)
    observers = {
        name: RangeObserver(layer.activations.observer != "minmax") for name, layer in layers.items()
    }
    with torch.inference_mode(), ExitStack() as stack:
        for name, layer in layers.items():

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                try:
                    observers[name].update(inputs[0])
                except QuantizationError as error:
                    raise QuantizationError(f"{name}: {error}") from None

            stack.callback(layer.register_forward_pre_hook(hook).remove)
        show(model, calibrate)
    ranges = {}
    for name, layer in layers.items():
        if observers[name].values == 0:
            raise QuantizationError(
                f"{name}: no calibration sample reaches this layer; exclude it with scheme.layers.exclude"
            )
        ranges[name] = observed_range(observers[name], layer.activations)
        layer.set_input_range(ranges[name])
    return ranges


def static_layers(model: nn.Module) -> dict[str, QuantLinear | QuantConv]:
    """The layers whose inputs are rounded with a static range, by the names of their float layers."""
    found: dict[str, QuantLinear | QuantConv] = {}
    inside: set[int] = set()  # convolutions never call the layer that holds their weight
    for name, module in model.named_modules():
        if isinstance(module, QuantConv):
            inside.add(id(module.rows))
        if not isinstance(module, QuantLinear | QuantConv) or id(module) in inside:
            continue
        if module.activations.mode == "static":
            found[name if isinstance(module, QuantConv) else layer_name(model, name)] = module
    return found
