"""The one place that swaps modules: round and pack the weights of the selected layers, put quantized layers in their place."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn

from vggtq.attention import set_attention_
from vggtq.errors import QuantizationError
from vggtq.quant.backends import quantized_linear
from vggtq.quant.calibration import Calibrate, Observer, StatisticsCache
from vggtq.quant.input_range import InputRange
from vggtq.quant.layers import QuantConv, QuantMultiheadAttention, TransformedLinear, weight_rows
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.recipe import Recipe, norms_before
from vggtq.quant.scheme import Activations, Scheme, Weights
from vggtq.quant.select import KeptLayer, WeightOf, layer_weights, named_weights, select_layers
from vggtq.quant.static_ranges import set_input_ranges_
from vggtq.quant.values import values_before


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
    notes: tuple[str, ...] = ()  # of the weight, then of the backend
    weight_notes: tuple[str, ...] = ()
    rotation: int = 0  # width of the Hadamard blocks that inputs go through
    merged: int = 0  # width of those of them that the layer in front of attention has taken over
    rotation_first: bool = False  # whether scales come behind the rotation
    special_ratio: float | None = None  # largest input of special tokens over that of patches, if seen
    rank: int = 0  # of the branch in half precision beside it
    rule: str = ""  # why this backend, where another one computes the same numbers
    input_range: tuple[float, float] | None = None  # what static activations are rounded within


@dataclass
class Quantization:
    """What `quantize_` did: layers that were replaced, layers that were kept, and decisions to tell the user."""

    layers: list[QuantizedLayer] = field(default_factory=list)
    kept: list[KeptLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calibration_passes: int = 0  # of the whole model
    calibration_groups: int = 0  # layers that were observed together
    calibration_seconds: float = 0.0  # of `seconds`, spent on running the model
    # norms and MLPs that round their outputs (`vggtq.quant.cuda_fuse`)
    fused: list[str] = field(default_factory=list)


Fetch = Callable[[Tensor], Tensor]
"""The values of a parameter; for models on the meta device, whose weights are read when their turn comes."""
LinearFactory = Callable[[PackedWeight, nn.Parameter | None, Activations], QuantLinear]


def quantize_(
    model: nn.Module,
    scheme: Scheme,
    first_last: Sequence[str] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    fetch: Fetch | None = None,
    linear: LinearFactory = quantized_linear,
    calibrate: Calibrate | None = None,
    cache: StatisticsCache | None = None,
    keep_exact: bool = False,
) -> Quantization:
    """Replaces the layers of `model` that `scheme` selects, in place; works on any module.

    Parameters that stay in float are neither copied nor converted; a layer's float weight is released as soon as its
    replacement stands in its place, unless somebody else holds it. `first_last` names the layers that skip_first_last keeps;
    without it the model's own `first_last_layers()` is asked. `on_layer(done, total)` is called after each layer. With
    `fetch` the model may lie on the meta device: each weight is fetched, rounded and dropped, one after the other. `linear`
    makes the layers; the default chooses the fastest backend for the device. `calibrate`, for recipes that look at the inputs
    of layers: the samples, or a function that runs the model on them; `cache` keeps what was seen. With `keep_exact`,
    `linear` gets the float weights as well, to train on.

    Raises QuantizationError for patterns that match nothing, for weights that cannot be rounded (the layer is named), and for
    schemes that are fine-tuned, which is what `vggtq.quant.finetune.finetune.finetune_` does.
    """
    if scheme.finetune.steps:
        raise QuantizationError(
            f"scheme {scheme.name} is fine-tuned, which quantize_ does not do; use finetune_, or scheme.finetune.steps=0"
        )
    started = time.perf_counter()
    if scheme.allocates:
        raise QuantizationError(
            f"scheme {scheme.name} has candidates but no bits per layer; find them first with vggtq.quant.allocate"
        )
    selection = select_layers(model, scheme, first_last)
    result = Quantization(kept=selection.kept, notes=selection.notes)
    observer = _observer(model, scheme, selection.replace, calibrate, cache)
    names = [weight.name for own in selection.replace for weight in own]
    norms = norms_before(model) if scheme.transforms else {}
    values = values_before(model, scheme, observed_layers(selection.replace), observer)
    recipe = Recipe(model, scheme, observer, norms, values, fetch or as_it_is, keep_exact)
    shared = TiedWeights(selection.replace, fetch or as_it_is, recipe)

    def packed(weight: WeightOf) -> PackedWeight:
        return shared.packed(weight, layer_weights(scheme, weight.name))

    make = partial(_replacement, linear, scheme.activations, result)
    _replace_(model, selection.replace, packed, make, fetch or as_it_is, on_layer)
    _choose_attention_(model, scheme.attention, result)
    result.layers = [
        replace(layer, special_ratio=recipe.special_ratios.get(layer.name))
        for layer in sorted(result.layers, key=lambda layer: names.index(layer.name))
    ]
    if observer:
        result.calibration_passes, result.calibration_groups = observer.whole_passes, len(observer.groups)
        result.calibration_seconds = observer.seconds
    if scheme.activations.mode == "static" and calibrate is not None:
        _find_ranges_(model, result, calibrate)
    result.seconds = time.perf_counter() - started
    return result


def _choose_attention_(model: nn.Module, attention: str, result: Quantization) -> None:
    modules = set_attention_(model, attention)
    if attention != "float32":
        result.notes.append(f"scaled dot products of {modules} attention modules run in {attention}")


def _find_ranges_(model: nn.Module, result: Quantization, calibrate: Calibrate) -> None:
    ranges = set_input_ranges_(model, calibrate)
    result.layers = [_with_range(layer, ranges.get(layer.name)) for layer in result.layers]
    result.calibration_passes += 1


def _observer(
    model: nn.Module,
    scheme: Scheme,
    modules: list[list[WeightOf]],
    calibrate: Calibrate | None,
    cache: StatisticsCache | None,
) -> Observer | None:
    """Sorts `modules` into the order of observation."""
    if not scheme.observes_inputs:
        return None
    if calibrate is None:
        raise QuantizationError(
            f"scheme {scheme.name} looks at the inputs of layers; pass calibrate=, the samples or a function that runs them"
        )
    if not scheme.needs_statistics:
        return None
    layers = observed_layers(modules)
    observer = Observer(model, layers, calibrate, cache=cache, rotated=scheme.scales_rotated)
    modules.sort(key=lambda own: observer.order(own[0].name))
    return observer


def observed_layers(modules: list[list[WeightOf]]) -> list[str]:
    """The layers whose inputs matter: users of a shared weight have different inputs, so that no statistics fit them all."""
    weights = [weight for own in modules for weight in own]
    users = Counter(id(weight.parameter) for weight in weights)
    return [weight.name for weight in weights if users[id(weight.parameter)] == 1]


def restore_(
    model: nn.Module,
    names: Collection[str],
    packed: Callable[[WeightOf], PackedWeight],
    activations: Activations,
    fetch: Fetch,
    attention: str = "float32",
    on_layer: Callable[[int, int], None] | None = None,
) -> Quantization:
    """Puts weights that were packed before in place of the layers called `names`, and fetches all other parameters.

    attention: as in the scheme. packed: asked for one weight after the other. on_layer: called after each layer with how many
    are done, and of how many. The model may lie on the meta device. Raises QuantizationError for names that it does not have.
    """
    result = Quantization()
    make = partial(_replacement, quantized_linear, activations, result)
    _replace_(model, named_weights(model, names), packed, make, fetch, on_layer)
    _choose_attention_(model, attention, result)
    return result


def as_it_is(parameter: Tensor) -> Tensor:
    return parameter


def _replace_(
    model: nn.Module,
    modules: list[list[WeightOf]],
    packed: Callable[[WeightOf], PackedWeight],
    make: Callable[[nn.Module, list[WeightOf], list[PackedWeight]], nn.Module],
    fetch: Fetch,
    on_layer: Callable[[int, int], None] | None = None,
) -> None:
    """The one place that swaps modules. Empties `modules`, so that the list does not keep float weights alive."""
    places = _places(model)
    total = len(modules)
    for done in range(1, total + 1):
        own = modules.pop(0)
        module = own[0].module
        if id(module) not in places:
            raise QuantizationError(
                "the model is itself one layer; wrap it, e.g. nn.Sequential(layer), so that it can be replaced"
            )
        codes = [packed(weight) for weight in own]
        fetch_parameters_(module, fetch, {id(weight.parameter) for weight in own})
        new = make(module, own, codes)
        for parent, name in places[id(module)]:
            setattr(parent, name, new)
        if on_layer is not None:
            on_layer(done, total)
    fetch_parameters_(model, fetch)


def fetch_parameters_(model: nn.Module, fetch: Fetch, without: Collection[int] = ()) -> None:
    """Replaces parameters and buffers on the meta device by what `fetch` gives for them; shared ones stay shared.

    without: ids of those to leave alone.
    """
    fetched: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is None or not parameter.is_meta or id(parameter) in without:
                continue
            if id(parameter) not in fetched:
                fetched[id(parameter)] = nn.Parameter(fetch(parameter), requires_grad=False)
            module._parameters[key] = fetched[id(parameter)]
        for key, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = fetch(buffer)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id(module) → every parent and attribute where it sits."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((parent, name))
    return places


class TiedWeights:
    """Weights with more than one user are rounded once and share their codes; of others nothing is remembered."""

    def __init__(self, modules: list[list[WeightOf]], fetch: Fetch, recipe: Recipe) -> None:
        self._fetch, self._recipe = fetch, recipe
        self._users = Counter(id(weight.parameter) for own in modules for weight in own)
        self._packed: dict[tuple[object, ...], PackedWeight] = {}

    def packed(self, weight: WeightOf, spec: Weights) -> PackedWeight:
        if self._users[id(weight.parameter)] == 1:
            return self._pack(weight, spec)
        # The same tensor has other rows as a transposed or grouped convolution.
        key = (id(weight.parameter), spec.bits, weight.transposed, weight.groups)
        if key not in self._packed:
            self._packed[key] = self._pack(weight, spec, shared=True)
        return self._packed[key]

    def _pack(self, weight: WeightOf, spec: Weights, shared: bool = False) -> PackedWeight:
        assert weight.parameter is not None
        rows = weight_rows(self._fetch(weight.parameter).detach(), weight.transposed, weight.groups)
        try:
            return pack_weight(rows, spec) if shared else self._recipe.pack(weight.name, rows, spec)
        except QuantizationError as error:
            raise QuantizationError(f"{weight.name}: {error}") from None


def _replacement(
    linear: LinearFactory,
    activations: Activations,
    result: Quantization,
    module: nn.Module,
    own: list[WeightOf],
    codes: list[PackedWeight],
) -> nn.Module:
    """The quantized counterpart of one module; its layers are entered into the result."""
    new: nn.Module
    parts: list[QuantLinear | QuantConv]
    if isinstance(module, nn.MultiheadAttention):
        in_proj = linear(codes[0], module.in_proj_bias, activations)
        out_proj = linear(codes[1], module.out_proj.bias, activations)
        new, parts = QuantMultiheadAttention(module, in_proj, out_proj), [in_proj, out_proj]
    elif isinstance(module, nn.Linear):
        layer, transform = linear(codes[0], module.bias, activations), codes[0].transform
        wrapped = TransformedLinear(layer, transform, codes[0].low_rank)
        new, parts = wrapped if transform or codes[0].low_rank else layer, [layer]
    else:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        conv = QuantConv(codes[0], module, activations)
        new, parts = conv, [conv]
    result.layers += [_describe(w, c, p) for w, c, p in zip(own, codes, parts, strict=True)]
    return new.train(module.training)


def _describe(weight: WeightOf, packed: PackedWeight, layer: QuantLinear | QuantConv) -> QuantizedLayer:
    assert weight.parameter is not None
    bias = layer.rows.bias if isinstance(layer, QuantConv) else layer.bias
    biases = 0 if bias is None else bias.numel()
    bias_bytes = 0 if bias is None else biases * bias.element_size()
    input_scale = packed.transform.scale
    scale_bytes = 0 if input_scale is None else input_scale.numel() * input_scale.element_size()
    branch, branch_bytes = packed.low_rank, 0 if packed.low_rank is None else packed.low_rank.stored_bytes
    range_bytes = 0 if layer.input_range is None else InputRange.BYTES
    return QuantizedLayer(
        name=weight.name,
        type=type(weight.module).__name__,
        shape=tuple(weight.parameter.shape),
        weights=packed.spec,
        activation_bits=layer.activation_bits,
        backend=layer.backend,
        simulated=layer.simulated,
        stored_bytes=packed.stored_bytes + scale_bytes + range_bytes + branch_bytes + bias_bytes,
        resident_bytes=layer.resident_bytes() + scale_bytes + branch_bytes,
        float32_bytes=4 * (weight.parameter.numel() + biases),
        weight_sqnr_db=packed.sqnr_db,
        notes=packed.notes + layer.notes,
        weight_notes=packed.notes,
        rotation=packed.transform.rotation,
        merged=packed.transform.merged,
        rotation_first=packed.transform.rotation_first,
        rank=0 if branch is None else len(branch.down),
        rule=layer.rule,
        input_range=None if layer.input_range is None else layer.input_range.ends,
    )


def _with_range(layer: QuantizedLayer, known: InputRange | None) -> QuantizedLayer:
    """What became of a layer whose input range was found after its weight."""
    if known is None:
        return layer
    stored, resident = layer.stored_bytes + InputRange.BYTES, layer.resident_bytes + InputRange.BYTES
    return replace(layer, stored_bytes=stored, resident_bytes=resident, input_range=known.ends)
