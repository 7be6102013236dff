"""Bytes, counted tensor by tensor: what a file has to keep, and what stays in memory. Shared weights count once."""

from collections.abc import Iterator

from torch import Tensor, nn

from vggtq.quant.linear import QuantLinear


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything a checkpoint has to keep, by name: codes, scales, zero points, and all unquantized tensors."""
    named: dict[str, Tensor] = {}
    for name, module in _quantized(model):
        named |= {f"{name}.{key}": tensor for key, tensor in module.weight_tensors().items()}
    return named | _rest(model)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of `stored_tensors`, the size of the model as a file without the header; makes none of them."""
    packed = sum(module.stored_weight_bytes for _, module in _quantized(model))
    return packed + sum(_bytes(tensor) for tensor in _rest(model).values())


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as held in memory, in the layouts of their kernels; a layout is held for each layer."""
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    inside = {id(t): t for layer in layers for t in (*layer.buffers(), *layer.parameters())}
    rest = {id(t): t for t in (*model.parameters(), *model.buffers())} | inside
    layouts = sum(
        layer.resident_bytes() - sum(map(_bytes, (*layer.buffers(), *layer.parameters()))) for layer in layers
    )
    return layouts + sum(map(_bytes, rest.values()))


def _quantized(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """Quantized layers by name, one of those that share a weight."""
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear) and module.weight_id not in seen:
            seen.add(module.weight_id)
            yield name, module


def _rest(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers that are no quantized weights: each tensor under its first name."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not isinstance(module, QuantLinear):
            skipped = module._non_persistent_buffers_set
            own |= {key: b for key, b in module.named_buffers(recurse=False) if key not in skipped}
        for key, tensor in own.items():
            named.setdefault(id(tensor), (f"{name}.{key}" if name else key, tensor))
    return dict(named.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
