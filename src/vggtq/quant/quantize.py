"""The one place that swaps modules: round and pack the weights of the selected layers, put quantized layers in their place."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from vggtq.errors import QuantizationError
from vggtq.quant.backends import quantized_linear
from vggtq.quant.layers import QuantConv, QuantMultiheadAttention, weight_rows
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.scheme import Activations, Scheme, Weights
from vggtq.quant.select import KeptLayer, WeightOf, layer_weights, select_layers


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


@dataclass
class Quantization:
    """What `quantize_` did: layers that were replaced, layers that were kept, and decisions to tell the user."""

    layers: list[QuantizedLayer] = field(default_factory=list)
    kept: list[KeptLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def quantize_(
    model: nn.Module,
    scheme: Scheme,
    first_last: Sequence[str] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Quantization:
    """Replaces the layers of `model` that `scheme` selects, in place; works on any module.

    Parameters that stay in float are neither copied nor converted; a layer's float weight is released as soon as its
    replacement stands in its place, unless somebody else holds it. `first_last` names the layers that skip_first_last keeps;
    without it the model's own `first_last_layers()` is asked. `on_layer(done, total)` is called after each layer.

    Raises QuantizationError for patterns that match nothing and for weights that cannot be rounded (the layer is named).
    """
    started = time.perf_counter()
    selection = select_layers(model, scheme, first_last)
    result = Quantization(kept=selection.kept, notes=selection.notes)
    places = _places(model)
    shared = _TiedWeights(selection.replace)
    total = len(selection.replace)
    for done in range(1, total + 1):
        own = selection.replace.pop(0)  # so that the list does not keep float weights alive
        module = own[0].module
        if id(module) not in places:
            raise QuantizationError(
                "the model is itself one layer; wrap it, e.g. nn.Sequential(layer), so that it can be replaced"
            )
        codes = [shared.packed(weight, layer_weights(scheme, weight.name)) for weight in own]
        new = _replacement(module, own, codes, scheme.activations, result)
        for parent, name in places[id(module)]:
            setattr(parent, name, new)
        if on_layer is not None:
            on_layer(done, total)
    result.seconds = time.perf_counter() - started
    return result


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id(module) → every parent and attribute where it sits."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((parent, name))
    return places


class _TiedWeights:
    """Weights with more than one user are rounded once and share their codes; of others nothing is remembered."""

    def __init__(self, modules: list[list[WeightOf]]) -> None:
        self._users = Counter(id(weight.parameter) for own in modules for weight in own)
        self._packed: dict[tuple[object, ...], PackedWeight] = {}

    def packed(self, weight: WeightOf, spec: Weights) -> PackedWeight:
        if self._users[id(weight.parameter)] == 1:
            return _pack(weight, spec)
        # The same tensor has other rows as a transposed or grouped convolution.
        key = (id(weight.parameter), spec.bits, weight.transposed, weight.groups)
        if key not in self._packed:
            self._packed[key] = _pack(weight, spec)
        return self._packed[key]


def _pack(weight: WeightOf, spec: Weights) -> PackedWeight:
    assert weight.parameter is not None
    rows = weight_rows(weight.parameter.detach(), weight.transposed, weight.groups)
    try:
        return pack_weight(rows, spec)
    except QuantizationError as error:
        raise QuantizationError(f"{weight.name}: {error}") from None


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
    assert weight.parameter is not None
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
