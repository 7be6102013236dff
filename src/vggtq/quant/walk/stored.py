"""Bytes, counted tensor by tensor: those that a file has to keep, and those that stay in memory. Shared weights
count once.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import LOW_RANK, QuantConv, QuantMultiheadAttention, TransformedLinear


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
        input_range = module.input_range if isinstance(module, QuantLinear) else None
        if input_range is not None:
            layer = layer_name(model, name)
            named[f"{layer}.activation_scale"] = input_range.scale
            named[f"{layer}.activation_zero_point"] = input_range.zero_point
    return named


def stored_bytes(model: nn.Module, rest: torch.dtype = torch.float32) -> int:
    """Bytes of `stored_tensors`, the size of the model as a file without the header; makes none of them.

    rest: the dtype that floating-point tensors outside the quantized weights are stored in.
    """
    packed = sum(module.stored_weight_bytes for _, module in quantized_layers(model))
    beside = (range_tensors(model) | branch_tensors(model)).values()
    return packed + sum(t.nbytes for t in beside) + rest_bytes(rest_tensors(model).values(), rest)


def rest_bytes(tensors: Iterable[Tensor], rest: torch.dtype) -> int:
    """Bytes of unquantized tensors where floating-point ones are stored in `rest`."""
    return sum(t.numel() * rest.itemsize if t.is_floating_point() else t.nbytes for t in tensors)


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as held in memory, in the layouts of their kernels; a layout is held for each layer."""
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    inside = {id(t): t for layer in layers for t in (*layer.buffers(), *layer.parameters())}
    rest = {id(t): t for t in (*model.parameters(), *model.buffers())} | inside
    layouts = sum(
        layer.resident_bytes() - sum(t.nbytes for t in (*layer.buffers(), *layer.parameters()))
        for layer in layers
    )
    return layouts + sum(t.nbytes for t in rest.values())


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """Quantized layers by the name that their float layer had, one of those that share a weight."""
    yielded = set()
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear) and module.weight_id not in yielded:
            yielded.add(module.weight_id)
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
        tensors = dict(module.named_parameters(recurse=False))
        if not isinstance(module, QuantLinear):
            skipped = module._non_persistent_buffers_set
            if isinstance(module, TransformedLinear):
                skipped = skipped.union(LOW_RANK)
            tensors |= {k: b for k, b in module.named_buffers(recurse=False) if k not in skipped}
        for key, tensor in tensors.items():
            named.setdefault(id(tensor), (_float_name(model, name, key), tensor))
    return dict(named.values())


def round_rest_(model: nn.Module, dtype: str) -> None:
    """Rounds every unquantized parameter to `dtype` and back, so that storing it there changes nothing any more.

    Parameters are replaced, not written to, since another model may share them. Raises QuantizationError for values that the
    dtype cannot hold.
    """
    if dtype == "float32":
        return
    target = getattr(torch, dtype)
    rounded = {id(t): _rounded(name, t, target) for name, t in rest_tensors(model).items()}
    for module in model.modules():
        for key, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and id(tensor) in rounded:
                setattr(module, key, rounded[id(tensor)])


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    exact = tensor.detach()
    new = exact.to(dtype).to(tensor.dtype)
    if not torch.isfinite(new).all():
        raise QuantizationError(
            f"{name}: the largest value, {float(exact.abs().amax()):.3g}, is beyond {dtype}'s "
            f"{torch.finfo(dtype).max:.3g}; use rest=bfloat16 or rest=float32"
        )
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def layer_name(model: nn.Module, name: str) -> str:
    """The float model's name for the quantized layer `name`.

    A convolution keeps its weight in a layer inside, and so does a layer whose inputs are transformed.
    """
    parent, _, _ = name.rpartition(".")
    inner = parent and isinstance(model.get_submodule(parent), QuantConv | TransformedLinear)
    return parent if inner else name


def weight_layer(model: nn.Module, name: str) -> QuantLinear:
    """The layer that holds the quantized weight which the float model called `name`: the inverse of `layer_name`."""
    module = model.get_submodule(name)
    if isinstance(module, QuantConv | TransformedLinear):
        module = module.rows if isinstance(module, QuantConv) else module.linear
    assert isinstance(module, QuantLinear)
    return module


def _float_name(model: nn.Module, name: str, key: str) -> str:
    """The float model's name for the parameter `key` of the module `name`."""
    parent, _, last = name.rpartition(".")
    outer = model.get_submodule(parent) if parent else None
    if isinstance(outer, QuantConv | TransformedLinear):
        return f"{parent}.{key}"
    if isinstance(outer, QuantMultiheadAttention) and last == "in_proj":
        return f"{parent}.in_proj_{key}"
    return f"{name}.{key}" if name else key
