"""The one place that swaps modules: select layers, round and pack their weights, put quantized layers in their place."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

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
class WeightOf:
    """One weight of a selected module: an attention has two."""

    name: str
    module: nn.Module
    parameter: Tensor
    transposed: bool = False


# Tied weights are rounded once and share their codes: (id of the parameter, bits) → codes.
_Cache = dict[tuple[int, int], PackedWeight]
_LAYER_CLASSES = {name: getattr(nn, name) for name in LAYER_TYPES}


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
    selected, result = select_layers(model, scheme, first_last)
    cache: _Cache = {}
    replacements: dict[int, nn.Module] = {}
    for done, (module, own) in enumerate(selected, 1):
        codes = [_pack(weight, layer_weights(scheme, weight.name), cache) for weight in own]
        replacements[id(module)] = _replacement(module, own, codes, scheme.activations, result)
        if on_layer is not None:
            on_layer(done, len(selected))
    _swap(model, replacements)
    result.seconds = time.perf_counter() - started
    return result


def select_layers(
    model: nn.Module, scheme: Scheme, first_last: Sequence[str] | None = None
) -> tuple[list[tuple[nn.Module, list[WeightOf]]], Quantization]:
    """The modules that `quantize_` would replace, with their weights, and what it would keep. Reads no weights, so a model on
    the meta device will do: mistakes in patterns show before a checkpoint is loaded."""
    result = Quantization()
    if scheme.weights.format == "float32":
        return [], result
    weights = list(_weights(model))
    _check_patterns(scheme, [weight.name for weight in weights])
    return _select(model, weights, scheme, first_last, result), result


def layer_weights(scheme: Scheme, name: str) -> Weights:
    """The numbers of one layer: those of the scheme, with the bits that its mixed-precision patterns give."""
    mixed = scheme.mixed
    if _matches(name, mixed.sensitive):
        return replace(scheme.weights, bits=mixed.sensitive_bits)
    if mixed.normal_bits is not None:
        return replace(scheme.weights, bits=mixed.normal_bits)
    return scheme.weights


def _weights(model: nn.Module) -> Iterable[WeightOf]:
    """Every weight of a selectable type, in module order. A module that sits in several places comes once."""
    inside_attention = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.add(id(module.out_proj))
            if module.in_proj_weight is not None:
                yield WeightOf(_join(name, "in_proj"), module, module.in_proj_weight)
                yield WeightOf(_join(name, "out_proj"), module, module.out_proj.weight)
        # Exact types: a subclass may do more in its forward than its replacement would.
        elif type(module) in _LAYER_CLASSES.values() and id(module) not in inside_attention:
            yield WeightOf(
                name, module, module.get_parameter("weight"), isinstance(module, nn.ConvTranspose2d)
            )


def _select(
    model: nn.Module,
    weights: list[WeightOf],
    scheme: Scheme,
    first_last: Sequence[str] | None,
    result: Quantization,
) -> list[tuple[nn.Module, list[WeightOf]]]:
    """Modules to replace with their weights; everything else of a selectable type is entered as kept."""
    ends = _first_last(model, weights, scheme, first_last, result)
    kept = {w.name: reason for w in weights if (reason := _reason_to_keep(w, scheme, ends))}
    float_users = _float_users(model, weights, kept)
    for weight in weights:
        if weight.name not in kept and (other := float_users.get(id(weight.parameter))):
            kept[weight.name] = f"shares its weight with {other}, which stays in float"
    modules: dict[int, tuple[nn.Module, list[WeightOf]]] = {}
    for weight in weights:
        modules.setdefault(id(weight.module), (weight.module, []))[1].append(weight)
    selected = []
    for module, own in modules.values():
        # An attention is replaced as a whole, so one kept projection keeps both.
        reason = next((kept[w.name] for w in own if w.name in kept), None)
        if reason is None:
            selected.append((module, own))
        else:
            result.kept += [
                KeptLayer(w.name, kept.get(w.name, f"belongs to an attention kept as a whole: {reason}"))
                for w in own
            ]
    if not selected:
        raise QuantizationError(
            f"scheme {scheme.name} selects none of the {len(weights)} layers; "
            f"check scheme.layers.include, exclude and types={scheme.layers.types}"
        )
    return selected


def _reason_to_keep(weight: WeightOf, scheme: Scheme, ends: set[str]) -> str | None:
    layers, kind = scheme.layers, type(weight.module).__name__
    if kind in layers.types and getattr(weight.module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={weight.module.padding_mode} is not supported"
    if kind not in layers.types:
        return f"{kind} is not in scheme.layers.types"
    if not _matches(weight.name, layers.include):
        return "not in scheme.layers.include"
    if _matches(weight.name, layers.exclude):
        return "in scheme.layers.exclude"
    return "first or last layer" if weight.name in ends else None


def _first_last(
    model: nn.Module,
    weights: list[WeightOf],
    scheme: Scheme,
    given: Sequence[str] | None,
    result: Quantization,
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


def _float_users(model: nn.Module, weights: list[WeightOf], kept: dict[str, str]) -> dict[int, str]:
    """id(parameter) → name of a user that will go on reading it in float."""
    users = {id(w.parameter): w.name for w in weights if w.name in kept}
    known = {id(m) for w in weights for m in (w.module, getattr(w.module, "out_proj", None))}
    for name, module in model.named_modules():
        if id(module) not in known:
            users |= {id(p): _join(name, key) for key, p in module.named_parameters(recurse=False)}
    return users


def _check_patterns(scheme: Scheme, names: list[str]) -> None:
    keys = {
        "layers.include": scheme.layers.include,
        "layers.exclude": scheme.layers.exclude,
        "mixed.sensitive": scheme.mixed.sensitive,
    }
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


def _pack(weight: WeightOf, spec: Weights, cache: _Cache) -> PackedWeight:
    key = (id(weight.parameter), spec.bits)
    if key not in cache:
        rows = weight_rows(weight.parameter.detach(), weight.transposed, getattr(weight.module, "groups", 1))
        try:
            cache[key] = pack_weight(rows, spec)
        except QuantizationError as error:
            raise QuantizationError(f"{weight.name}: {error}") from None
    return cache[key]


def _replacement(
    module: nn.Module,
    own: list[WeightOf],
    codes: list[PackedWeight],
    activations: Activations,
    result: Quantization,
) -> nn.Module:
    """The quantized counterpart of one module; its layers are entered into the result."""
    new: nn.Module
    parts: list[QuantLinear | QuantConv]
    if isinstance(module, nn.MultiheadAttention):
        in_proj = quantized_linear(codes[0], module.in_proj_bias, activations)
        out_proj = quantized_linear(codes[1], module.out_proj.bias, activations)
        new, parts = QuantMultiheadAttention(module, in_proj, out_proj), [in_proj, out_proj]
    elif isinstance(module, nn.Linear):
        linear = quantized_linear(codes[0], module.bias, activations)
        new, parts = linear, [linear]
    else:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        conv = QuantConv(codes[0], module)
        new, parts = conv, [conv]
    result.layers += [_describe(w, c, p) for w, c, p in zip(own, codes, parts, strict=True)]
    return new.train(module.training)


def _describe(weight: WeightOf, packed: PackedWeight, layer: QuantLinear | QuantConv) -> QuantizedLayer:
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
        raise QuantizationError(
            "the model is itself one layer; wrap it, e.g. nn.Sequential(layer), so that it can be replaced"
        )
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
