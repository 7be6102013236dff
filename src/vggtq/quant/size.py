"""Bytes, counted tensor by tensor: what a file has to keep, and what stays in memory. Shared weights count once."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vggtq.quant.layers import LOW_RANK, QuantConv, QuantMultiheadAttention, TransformedLinear
from vggtq.quant.linear import QuantLinear


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything a checkpoint has to keep, by name: `layer.codes`, `.scale`, `.zero_point`, and all unquantized tensors.

    The latter have the names that they have in the float model. Static activations add numbers for each layer, `range_tensors`.
    """
    named: dict[str, Tensor] = {}
    for name, module in quantized_layers(model):
        named |= {f"{name}.{key}": tensor for key, tensor in module.weight_tensors().items()}
    return named | range_tensors(model) | branch_tensors(model) | rest_tensors(model)


def range_tensors(model: nn.Module) -> dict[str, Tensor]:
    """`layer.activation_scale` and `layer.activation_zero_point` of every layer whose inputs have a static range."""
    named: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        known = module.input_range if isinstance(module, QuantLinear) else None
        if known is not None:
            layer = layer_name(model, name)
            named[f"{layer}.activation_scale"] = known.scale
            named[f"{layer}.activation_zero_point"] = known.zero_point
    return named


def stored_bytes(model: nn.Module, rest: torch.dtype = torch.float32) -> int:
    """Bytes of `stored_tensors`, the size of the model as a file without the header; makes none of them.

    rest: the dtype that floating-point tensors outside the quantized weights are stored in.
    """
    packed = sum(module.stored_weight_bytes for _, module in quantized_layers(model))
    beside = range_tensors(model) | branch_tensors(model)
    packed += sum(map(_bytes, beside.values()))
    size = rest.itemsize
    return packed + sum(
        t.numel() * size if t.is_floating_point() else _bytes(t) for t in rest_tensors(model).values()
    )


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as held in memory, in the layouts of their kernels; a layout is held for each layer."""
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    inside = {id(t): t for layer in layers for t in (*layer.buffers(), *layer.parameters())}
    rest = {id(t): t for t in (*model.parameters(), *model.buffers())} | inside
    layouts = sum(
        layer.resident_bytes() - sum(map(_bytes, (*layer.buffers(), *layer.parameters()))) for layer in layers
    )
    return layouts + sum(map(_bytes, rest.values()))


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """Quantized layers by the name that their float layer had, one of those that share a weight."""
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear) and module.weight_id not in seen:
            seen.add(module.weight_id)
            yield layer_name(model, name), module


def branch_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Low-rank branches, in half precision whatever `rest` is."""
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if isinstance(module, TransformedLinear)
        for key, tensor in module.branch_tensors().items()
    }


def rest_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers that are neither quantized weights nor branches: each under its first name."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not isinstance(module, QuantLinear):
            skipped = module._non_persistent_buffers_set
            branch = LOW_RANK if isinstance(module, TransformedLinear) else ()
            own |= {
                key: b
                for key, b in module.named_buffers(recurse=False)
                if key not in skipped and key not in branch
            }
        for key, tensor in own.items():
            named.setdefault(id(tensor), (_float_name(model, name, key), tensor))
    return dict(named.values())


def layer_name(model: nn.Module, name: str) -> str:
    """What the float model calls the quantized layer `name`.

    A convolution keeps its weight in a layer inside, and so does a layer whose inputs are transformed.
    """
    parent, _, _ = name.rpartition(".")
    inner = parent and isinstance(model.get_submodule(parent), QuantConv | TransformedLinear)
    return parent if inner else name


def _float_name(model: nn.Module, name: str, key: str) -> str:
    """What the float model calls the parameter `key` of the module `name`."""
    parent, _, last = name.rpartition(".")
    outer = model.get_submodule(parent) if parent else None
    if isinstance(outer, QuantConv | TransformedLinear):
        return f"{parent}.{key}"
    if isinstance(outer, QuantMultiheadAttention) and last == "in_proj":
        return f"{parent}.in_proj_{key}"
    return f"{name}.{key}" if name else key


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
