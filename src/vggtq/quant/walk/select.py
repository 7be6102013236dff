"""Selects the layers that a scheme replaces, and gives the reasons why the others stay in float. Reads names,
types and shapes; never a weight.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError, did_you_mean
from vggtq.network.attention import ATTRIBUTE, offers_attention
from vggtq.network.declared import first_last_layers
from vggtq.network.native_attention import int8_problem
from vggtq.quant.scheme.parts import LAYER_TYPES
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights

log = logging.getLogger(__name__)

_CLASSES: dict[type[nn.Module], str] = {getattr(nn, name): name for name in LAYER_TYPES}


@dataclass(frozen=True)
class WeightOf:
    """One weight of a module; an attention has two. `parameter` is None where a module computes its weight."""

    name: str
    module: nn.Module
    parameter: Tensor | None
    unsupported: str | None = None

    @property
    def linear(self) -> bool:
        """Whether its inputs can be observed; the projections of nn.MultiheadAttention never run themselves."""
        return type(self.module) is nn.Linear

    @property
    def transposed(self) -> bool:
        return isinstance(self.module, nn.ConvTranspose2d)

    @property
    def groups(self) -> int:
        return getattr(self.module, "groups", 1)


@dataclass(frozen=True)
class KeptLayer:
    """A layer of a selectable type that stays in float, and why."""

    name: str
    reason: str


@dataclass
class Selection:
    """replace: modules with the weights to round; kept: the rest; notes: decisions to report to the user."""

    replace: list[list[WeightOf]] = field(default_factory=list)
    kept: list[KeptLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def select_layers(model: nn.Module, scheme: Scheme, first_last: Sequence[str] | None = None) -> Selection:
    """The layers that `quantize_` would replace and those that it would keep.

    Works on a model on the meta device, so that mistakes in patterns show before a checkpoint is loaded. Raises
    QuantizationError for patterns that match nothing, for a scheme that selects nothing, and for a choice of attention that
    nothing in the model offers.
    """
    selection = Selection()
    if scheme.weights.entry.exact:
        _check_attention(model, scheme, selection)
        return selection
    weights = list(_weights(model))
    _check_patterns(scheme, [weight.name for weight in weights])
    kept = _reasons(model, weights, scheme, _first_last(model, weights, scheme, first_last, selection))
    for of_module in _by_module(weights):
        # An attention is replaced as a whole, so one kept projection keeps both.
        reason = next((kept[w.name] for w in of_module if w.name in kept), None)
        if reason is None:
            selection.replace.append(of_module)
        else:
            whole = f"belongs to an attention that is kept as a whole: {reason}"
            selection.kept += [KeptLayer(w.name, kept.get(w.name, whole)) for w in of_module]
    _check_selection(scheme, selection, len(weights))
    _check_attention(model, scheme, selection)
    return selection


def check_int8_attention(scheme: Scheme, device: torch.device) -> None:
    """Raises QuantizationError where the scheme wants int8 attention, which this machine does not compute on `device`."""
    problem = int8_problem(device) if scheme.attention == "int8" else None
    if problem:
        raise QuantizationError(f"scheme.attention=int8: {problem}; use scheme.attention=float32")


def _check_attention(model: nn.Module, scheme: Scheme, selection: Selection) -> None:
    check_int8_attention(scheme, next((p.device for p in model.parameters()), torch.device("cpu")))
    if scheme.attention == "float32" or any(offers_attention(module) for module in model.modules()):
        return
    # A quantized nn.MultiheadAttention offers it.
    if not any(isinstance(weights[0].module, nn.MultiheadAttention) for weights in selection.replace):
        raise QuantizationError(
            f"scheme.attention={scheme.attention}: no module of the model has an attribute {ATTRIBUTE}, by which its scaled "
            f"dot products take another dtype (vggtq.network.attention.attend); use scheme.attention=float32"
        )


def named_weights(model: nn.Module, names: Collection[str]) -> list[list[WeightOf]]:
    """The weights with these names, those of one module together. Raises QuantizationError unless the model has them all."""
    modules = [ws for ws in _by_module(_weights(model)) if any(weight.name in names for weight in ws)]
    known = {weight.name for weights in modules for weight in weights}
    if known != set(names):
        odd = sorted(known ^ set(names))
        raise QuantizationError(f"layers that model and weights do not share: {', '.join(odd[:5])}")
    return modules


def is_linear(model: nn.Module, name: str) -> bool:
    """`WeightOf.linear` of the layer `name`; False for names that are no module, such as those of attention projections."""
    return type(dict(model.named_modules()).get(name)) is nn.Linear


def observed_layers(modules: Sequence[Sequence[WeightOf]]) -> list[str]:
    """The layers whose inputs matter: users of a shared weight have different inputs, so that no statistics fit them all."""
    flat = [weight for weights in modules for weight in weights]
    users = Counter(id(weight.parameter) for weight in flat)
    return [weight.name for weight in flat if users[id(weight.parameter)] == 1]


def layer_weights(scheme: Scheme, name: str) -> Weights:
    """The numbers of one layer: those of the scheme, with the bits that it is given by name or pattern."""
    mixed = scheme.mixed
    if name in mixed.bits:
        return replace(scheme.weights, bits=mixed.bits[name])
    if _matches(name, mixed.sensitive):
        return replace(scheme.weights, bits=mixed.sensitive_bits)
    if mixed.normal_bits is not None:
        return replace(scheme.weights, bits=mixed.normal_bits)
    return scheme.weights


def _by_module(weights: Iterable[WeightOf]) -> list[list[WeightOf]]:
    modules: dict[int, list[WeightOf]] = {}
    for weight in weights:
        modules.setdefault(id(weight.module), []).append(weight)
    return list(modules.values())


def _weights(model: nn.Module) -> Iterable[WeightOf]:
    """Every weight of a selectable type, in module order. A module that sits in several places comes once."""
    # Modules that are visited with their parent, and why they cannot be replaced.
    inside: dict[int, str | None] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # Its fast path hands the tensors of its children to one fused operator, past their forward.
            inside |= {
                id(child): f"{type(module).__name__} reads its weights itself" for child in module.modules()
            }
        kind = next((cls for cls in _CLASSES if isinstance(module, cls)), None)
        if kind is None or (id(module) in inside and inside[id(module)] is None):
            continue
        reason = inside.get(id(module)) or _unsupported(module, kind)
        if isinstance(module, nn.MultiheadAttention):
            inside[id(module.out_proj)] = None
            yield WeightOf(_join(name, "in_proj"), module, module.in_proj_weight, reason)
            yield WeightOf(_join(name, "out_proj"), module, module.out_proj.weight, reason)
        else:
            yield WeightOf(name, module, module._parameters.get("weight"), reason)


def _unsupported(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a module of a known kind cannot be replaced by its quantized counterpart without changing its
    function.
    """
    if type(module) is not kind:
        return f"{type(module).__name__} may do more than {kind.__name__}"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has forward hooks"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={module.padding_mode} is not supported"
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None:
            return "key and value have widths of their own"
        if module.bias_k is not None or module.add_zero_attn:
            return "add_bias_kv and add_zero_attn are not supported"
    return None


def _reasons(model: nn.Module, weights: list[WeightOf], scheme: Scheme, ends: set[str]) -> dict[str, str]:
    kept = {w.name: reason for w in weights if (reason := _reason_to_keep(w, scheme, ends))}
    float_users = _float_users(model, [w for w in weights if w.name not in kept])
    for weight in weights:
        if weight.name not in kept and (other := float_users.get(id(weight.parameter))):
            kept[weight.name] = f"shares its weight with {other}, which stays in float"
    return kept


def _reason_to_keep(weight: WeightOf, scheme: Scheme, ends: set[str]) -> str | None:
    layers = scheme.layers
    kind = next(name for cls, name in _CLASSES.items() if isinstance(weight.module, cls))
    if kind not in layers.types:
        return f"{kind} is not in scheme.layers.types"
    if not _matches(weight.name, layers.include):
        return "not in scheme.layers.include"
    if _matches(weight.name, layers.exclude):
        return "in scheme.layers.exclude"
    if weight.name in ends:
        return "first or last layer"
    return weight.unsupported


def _first_last(
    model: nn.Module,
    weights: list[WeightOf],
    scheme: Scheme,
    given: Sequence[str] | None,
    selection: Selection,
) -> set[str]:
    if not scheme.layers.skip_first_last:
        return set()
    names = first_last_layers(model) if given is None else given
    ends = set(names or ())
    if unknown := ends - {w.name for w in weights}:
        raise QuantizationError(
            f"first and last layers that the model does not have: {', '.join(sorted(unknown))}; "
            f"correct the model's declaration"
        )
    if names is None:
        note = "skip_first_last kept nothing: the model does not declare its first and last layers (first_last=[…])"
        log.warning(note)
        selection.notes.append(note)
    return ends


def _float_users(model: nn.Module, replaced: list[WeightOf]) -> dict[int, str]:
    """id(parameter) → name of a user that will go on reading it in float."""
    known = {id(m) for w in replaced for m in (w.module, getattr(w.module, "out_proj", None))}
    users: dict[int, str] = {}
    for name, module in model.named_modules():
        if id(module) not in known:
            users |= {id(p): _join(name, key) for key, p in module.named_parameters(recurse=False)}
    return users


def _check_patterns(scheme: Scheme, names: list[str]) -> None:
    lists = {"layers.include": scheme.layers.include, "layers.exclude": scheme.layers.exclude}
    for key, patterns in (lists | {"mixed.sensitive": scheme.mixed.sensitive}).items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise QuantizationError(
                    f"scheme.{key}: {pattern!r} matches none of the {len(names)} layers; "
                    f"patterns match whole dotted names such as {names[0] if names else '…'}"
                )


def _check_selection(scheme: Scheme, selection: Selection, count: int) -> None:
    names = [weight.name for weights in selection.replace for weight in weights]
    if not names:
        reasons = ", ".join(
            f"{reason} ({n})" for reason, n in Counter(k.reason for k in selection.kept).most_common(3)
        )
        raise QuantizationError(
            f"scheme {scheme.name} selects none of the {count} layers: {reasons or 'the model has none'}; "
            f"check scheme.layers.include, exclude and types={scheme.layers.types}"
        )
    _check_named(scheme, names)
    for pattern in scheme.mixed.sensitive:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise QuantizationError(
                f"scheme.mixed.sensitive: {pattern!r} matches only layers that stay in float; "
                f"change the pattern or scheme.layers"
            )


def _check_named(scheme: Scheme, names: list[str]) -> None:
    if unknown := sorted(set(scheme.mixed.bits) - set(names)):
        raise QuantizationError(
            f"scheme.mixed.bits: {unknown[0]} is no layer that this scheme quantizes{did_you_mean(unknown[0], names)}; "
            f"correct the name or scheme.layers"
        )


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
