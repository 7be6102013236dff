"""The one place that swaps modules: select layers, round and pack their weights, put quantized layers in their place."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.layers import QuantConv, QuantMultiheadAttention, quantized_linear, weight_rows
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.scheme import LAYER_TYPES, Activations, Scheme, Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedLayer:
    """What became of one layer. Bytes include the bias; weight_sqnr_db is infinite where nothing was lost."""

    name: str
    type: str
    shape: tuple[int, ...]
    weights: Weights
    activation_bits: int | None
    backend: str
    simulated: bool
    stored_bytes: int
    resident_bytes: int
    float32_bytes: int
    weight_sqnr_db: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptLayer:
    """A layer of a selectable type that stays in float, and why."""

    name: str
    reason: str


@dataclass
class Quantization:
    """What `quantize_` did: layers that were replaced, layers that were kept, and decisions to tell the user."""

    layers: list[QuantizedLayer] = field(default_factory=list)
    kept: list[KeptLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Weight:
    """One weight of a selected module: an attention has two."""

    name: str
    module: nn.Module
    parameter: Tensor
    transposed: bool = False


def quantize_(
    model: nn.Module,
    scheme: Scheme,
    first_last: Sequence[str] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Quantization:
    """Replaces the layers of `model` that `scheme` selects, in place; works on any module.

    Parameters that stay in float are neither copied nor converted. `first_last` names the layers that skip_first_last keeps;
    without it the model's own `first_last_layers()` is asked. `on_layer(done, total)` is called after each layer.

    Raises QuantizationError for patterns that match nothing and for weights that cannot be rounded (the layer is named).
    """
    started = time.perf_counter()
    result = Quantization()
    if scheme.weights.format == "float32":
        return result
    weights = list(_weights(model))
    _check_patterns(scheme, [weight.name for weight in weights])
    selected = _select(model, weights, scheme, first_last, result)
    packed: dict[int, PackedWeight] = {}  # tied weights are rounded once and share their codes
    replacements: dict[int, nn.Module] = {}
    for done, (module, own) in enumerate(selected, 1):
        for weight in own:
            if id(weight.parameter) not in packed:
                packed[id(weight.parameter)] = _pack(weight, layer_weights(scheme, weight.name))
        replacements[id(module)] = _replacement(module, own, packed, scheme.activations, result)
        if on_layer is not None:
            on_layer(done, len(selected))
    _swap(model, replacements)
    result.seconds = time.perf_counter() - started
    return result


def layer_weights(scheme: Scheme, name: str) -> Weights:
    """The numbers of one layer: those of the scheme, with the bits that its mixed-precision patterns give."""
    mixed = scheme.mixed
    if _matches(name, mixed.sensitive):
        return replace(scheme.weights, bits=mixed.sensitive_bits)
    if mixed.normal_bits is not None:
        return replace(scheme.weights, bits=mixed.normal_bits)
    return scheme.weights


def _weights(model: nn.Module) -> Iterable[_Weight]:
    """Every weight of a selectable type, in module order. A module that sits in several places comes once."""
    inside_attention = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.add(id(module.out_proj))
            if module.in_proj_weight is not None:
                yield _Weight(_join(name, "in_proj"), module, module.in_proj_weight)
                yield _Weight(_join(name, "out_proj"), module, module.out_proj.weight)
        elif type(module).__name__ in LAYER_TYPES and id(module) not in inside_attention:
            yield _Weight(name, module, module.get_parameter("weight"), isinstance(module, nn.ConvTranspose2d))


def _select(
    model: nn.Module, weights: list[_Weight], scheme: Scheme, first_last: Sequence[str] | None, result: Quantization
) -> list[tuple[nn.Module, list[_Weight]]]:
    """Modules to replace with their weights; everything else of a selectable type is entered as kept."""
    ends = _first_last(model, weights, scheme, first_last, result)
    kept = {w.name: reason for w in weights if (reason := _reason_to_keep(w, scheme, ends))}
    float_users = _float_users(model, weights, kept)
    for weight in weights:
        if weight.name not in kept and (other := float_users.get(id(weight.parameter))):
            kept[weight.name] = f"shares its weight with {other}, which stays in float"
    modules: dict[int, tuple[nn.Module, list[_Weight]]] = {}
    for weight in weights:
        modules.setdefault(id(weight.module), (weight.module, []))[1].append(weight)
    selected = []
    for module, own in modules.values():
        # An attention is replaced as a whole, so one kept projection keeps both.
        reason = next((kept[w.name] for w in own if w.name in kept), None)
        if reason is None:
            selected.append((module, own))
        else:
            result.kept += [KeptLayer(w.name, kept.get(w.name, f"belongs to an attention kept as a whole: {reason}")) for w in own]
    if not selected:
        raise QuantizationError(
            f"scheme {scheme.name} selects none of the {len(weights)} layers; "
            f"check scheme.layers.include, exclude and types={scheme.layers.types}"
        )
    return selected


def _reason_to_keep(weight: _Weight, scheme: Scheme, ends: set[str]) -> str | None:
    layers, kind = scheme.layers, type(weight.module).__name__
    if kind not in layers.types:
        return f"{kind} is not in scheme.layers.types"
    if not _matches(weight.name, layers.include):
        return "not in scheme.layers.include"
    if _matches(weight.name, layers.exclude):
        return "in scheme.layers.exclude"
    return "first or last layer" if weight.name in ends else None


def _first_last(
    model: nn.Module, weights: list[_Weight], scheme: Scheme, given: Sequence[str] | None, result: Quantization
) -> set[str]:
    if not scheme.layers.skip_first_last:
        return set()
    declared = getattr(model, "first_last_layers", None)
    ends = set(given if given is not None else declared() if callable(declared) else ())
    if unknown := ends - {w.name for w in weights}:
        raise QuantizationError(
            f"first and last layers that the model does not have: {', '.join(sorted(unknown))}; correct the model's declaration"
        )
    if given is None and not callable(declared):
        note = "skip_first_last kept nothing: the model does not declare its first and last layers (first_last=[…])"
        log.warning(note)
        result.notes.append(note)
    return ends


def _float_users(model: nn.Module, weights: list[_Weight], kept: dict[str, str]) -> dict[int, str]:
    """id(parameter) → name of a user that will go on reading it in float."""
    users = {id(w.parameter): w.name for w in weights if w.name in kept}
    known = {id(w.module) for w in weights}
    for name, module in model.named_modules():
        if id(module) not in known:
            users |= {id(p): _join(name, key) for key, p in module.named_parameters(recurse=False)}
    # out_proj of an attention is visited as a module of its own, and in_proj's bias is no weight.
    for weight in weights:
        if isinstance(weight.module, nn.MultiheadAttention) and weight.name not in kept:
            users.pop(id(weight.parameter), None)
    return users


def _check_patterns(scheme: Scheme, names: list[str]) -> None:
    keys = {"layers.include": scheme.layers.include, "layers.exclude": scheme.layers.exclude, "mixed.sensitive": scheme.mixed.sensitive}
    for key, patterns in keys.items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise QuantizationError(
                    f"scheme.{key}: {pattern!r} matches none of the {len(names)} layers; "
                    f"patterns match whole dotted names such as {names[0] if names else '…'}"
                )


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _pack(weight: _Weight, spec: Weights) -> PackedWeight:
    groups = getattr(weight.module, "groups", 1)
    with torch.no_grad():
        rows = weight_rows(weight.parameter.detach(), weight.transposed, groups)
        try:
            return pack_weight(rows, spec)
        except QuantizationError as error:
            raise QuantizationError(f"{weight.name}: {error}") from None


def _replacement(
    module: nn.Module, own: list[_Weight], packed: dict[int, PackedWeight], activations: Activations, result: Quantization
) -> nn.Module:
    """The quantized counterpart of one module; its layers are entered into the result."""
    codes = [packed[id(weight.parameter)] for weight in own]
    new: nn.Module
    if isinstance(module, nn.MultiheadAttention):
        parts = [quantized_linear(codes[0], module.in_proj_bias, activations)]
        parts.append(quantized_linear(codes[1], module.out_proj.bias, activations))
        new = QuantMultiheadAttention(module, *parts)
    elif isinstance(module, nn.Linear):
        new = quantized_linear(codes[0], module.bias, activations)
        parts = [new]
    else:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        new = QuantConv(codes[0], module)
        parts = [new]  # type: ignore[list-item]
    result.layers += [_describe(w, c, p) for w, c, p in zip(own, codes, parts, strict=True)]
    return new.train(module.training)


def _describe(weight: _Weight, packed: PackedWeight, layer: QuantLinear | QuantConv) -> QuantizedLayer:
    bias = layer.rows.bias if isinstance(layer, QuantConv) else layer.bias
    biases = 0 if bias is None else bias.numel()
    bias_bytes = 0 if bias is None else biases * bias.element_size()
    return QuantizedLayer(
        name=weight.name,
        type=type(weight.module).__name__,
        shape=tuple(weight.parameter.shape),
        weights=packed.spec,
        activation_bits=layer.activation_bits,
        backend=layer.backend,
        simulated=layer.simulated,
        stored_bytes=packed.stored_bytes + bias_bytes,
        resident_bytes=layer.resident_bytes(),
        float32_bytes=4 * (weight.parameter.numel() + biases),
        weight_sqnr_db=packed.sqnr_db,
        notes=packed.notes + layer.notes,
    )


def _swap(model: nn.Module, replacements: dict[int, nn.Module]) -> None:
    """Puts replacements into every place where their module sits."""
    if id(model) in replacements:
        raise QuantizationError("the model is itself one layer; wrap it, e.g. nn.Sequential(layer), so that it can be replaced")
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
