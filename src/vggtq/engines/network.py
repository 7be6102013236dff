"""A quantized network as engines see it: `images` in, outputs by the names of `vggtq.network.outputs`, no batch axis."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vggtq.engines.layers import ExportedConv, ExportedLinear, ExportedTransform, Target
from vggtq.errors import ExportError, describe
from vggtq.models.vggt.vit import DinoV2
from vggtq.network.declared import common_outputs
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import QuantConv, TransformedLinear
from vggtq.quant.walk.replace import swap_modules_

log = logging.getLogger(__name__)

INPUT = "images"
MOST_FRAMES = 1024


class ExportedNetwork(nn.Module):
    """images (S, 3, H, W) in [0, 1] to a dict of outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = common_outputs(self.network, self.network(images[None]))
        return {name: value[0] for name, value in outputs.items()}


@contextmanager
def exportable(
    model: nn.Module, target: Target, size: tuple[int, int], keep: bool = True
) -> Iterator[ExportedNetwork]:
    """The network with layers of an exported graph in place of quantized ones, for a `with` block. Raises ExportError.

    size: height and width of the images that the graph will take. keep: False releases each quantized layer as soon as its
    counterpart is made, and the model keeps the counterparts.
    """
    chosen = {
        str(module.attention_dtype)
        for module in model.modules()
        if getattr(module, "attention_dtype", None) is not None
    }
    if chosen - {"torch.float32"} and not target.exact_inputs:
        name = chosen.pop().removeprefix("torch.")
        raise ExportError(
            f"scheme.attention={name} has no operator in {target.name}; use scheme.attention=float32, or format=torch_export"
        )
    layers, kept = _quantized(model)[::-1], dict[int, nn.Module]()
    try:
        while layers:
            layer = layers.pop()
            exported = _counterpart(layer, target)
            swap_modules_(model, {id(layer): exported})
            if keep:
                kept[id(exported)] = layer
        with fixed_positions(model, size):
            yield ExportedNetwork(model).eval()
    finally:
        swap_modules_(model, kept)


@contextmanager
def fixed_positions(model: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """Position tables of one image size, for a `with` block: OpenVINO shrinks tables without the low-pass filter of torch."""
    tables = [module for module in model.modules() if isinstance(module, DinoV2)]
    try:
        for module in tables:
            module.fix_positions_(size)
        yield
    finally:
        for module in tables:
            module.fix_positions_(None)


def _quantized(model: nn.Module) -> list[nn.Module]:
    """The quantized modules that nothing else of them holds."""
    kinds = (QuantLinear, QuantConv, TransformedLinear)
    found = [module for module in model.modules() if isinstance(module, kinds)]
    inside = {id(part) for module in found for part in module.modules() if part is not module}
    return [module for module in found if id(module) not in inside]


def _counterpart(layer: nn.Module, target: Target) -> nn.Module:
    if isinstance(layer, QuantConv):
        return ExportedConv(layer, target)
    if isinstance(layer, TransformedLinear):
        return ExportedTransform(layer, target)
    assert isinstance(layer, QuantLinear)
    return ExportedLinear(layer, target)


def traced(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The graph for any number of frames of this size. Raises ExportError."""
    frames = torch.export.Dim("frames", min=1, max=MOST_FRAMES)
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=({0: frames},), strict=False)
    except (RuntimeError, ValueError, TypeError, AssertionError, torch._dynamo.exc.UserError) as error:
        raise ExportError(f"torch.export does not trace this network: {describe(error)}") from error
