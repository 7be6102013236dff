"""Bytes, counted tensor by tensor: what a file has to keep, and what stays in memory. Shared tensors count once."""

from torch import Tensor, nn

from vggtq.quant.linear import QuantLinear


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything a checkpoint has to keep, by name: codes, scales, zero points, and all unquantized tensors."""
    named: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, QuantLinear):
            named |= {prefix + key: tensor for key, tensor in module.weight_tensors().items()}
            if module.bias is not None:
                named[prefix + "bias"] = module.bias
        else:
            named |= {prefix + key: p for key, p in module.named_parameters(recurse=False)}
            skipped = module._non_persistent_buffers_set
            named |= {prefix + key: b for key, b in module.named_buffers(recurse=False) if key not in skipped}
    return _unique(named)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of `stored_tensors`: the size of the model as a file, without the header."""
    return sum(t.numel() * t.element_size() for t in stored_tensors(model).values())


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as held in memory, in the layouts of their kernels."""
    quantized = [m for m in model.modules() if isinstance(m, QuantLinear)]
    inside = {id(p) for m in quantized for p in m.parameters()}
    inside |= {id(b) for m in quantized for b in m.buffers()}
    rest = {id(t): t for t in (*model.parameters(), *model.buffers()) if id(t) not in inside}
    return sum(m.resident_bytes() for m in quantized) + sum(
        t.numel() * t.element_size() for t in rest.values()
    )


def _unique(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first name of each tensor; kernels with a layout of their own make new tensors, which are never shared."""
    seen: dict[tuple[int, int], str] = {}
    for name, tensor in named.items():
        seen.setdefault((tensor.data_ptr() or id(tensor), tensor.numel()), name)
    return {name: named[name] for name in seen.values()}
