"""Ranges of static activations, found after the weights: one pass of the quantized model over the calibration samples.

Every layer is observed at once, as it will run: behind its transform, fed by layers whose weights are rounded, and with inputs
that are still rounded one token at a time. A range is a few numbers and a histogram of fixed size, so that one pass does for
all layers.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import QuantConv
from vggtq.quant.methods.ranges import RangeObserver, observed_range
from vggtq.quant.walk.observe import Calibrate, show
from vggtq.quant.walk.stored import layer_name


def set_input_ranges_(model: nn.Module, calibrate: Calibrate) -> None:
    """Gives every layer with static activations the range of its inputs.

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

            # Convolutions never call the layer that holds their weight.
            module = model.get_submodule(name)
            called = module if isinstance(module, QuantConv) else layer
            stack.callback(called.register_forward_pre_hook(hook).remove)
        show(model, calibrate)
    for name, layer in layers.items():
        if observers[name].values == 0:
            raise QuantizationError(
                f"{name}: no calibration sample reaches this layer; exclude it with scheme.layers.exclude"
            )
        layer.set_input_range(observed_range(observers[name], layer.activations))


def static_layers(model: nn.Module) -> dict[str, QuantLinear]:
    """The layers whose inputs are rounded with a static range, by the names of their float layers."""
    layers = {layer_name(model, name): m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    return {name: layer for name, layer in layers.items() if layer.activations.mode == "static"}
