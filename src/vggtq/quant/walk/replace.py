"""Puts quantized layers in place of float ones: all that `quantize_` and `restore_` change of a network."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import QuantConv, QuantMultiheadAttention, TransformedLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.walk.select import WeightOf

Fetch = Callable[[Tensor], Tensor]
"""Returns the values of a parameter; reads them, where the model lies on the meta device."""
LinearFactory = Callable[[PackedWeight, nn.Parameter | None, Activations], QuantLinear]


def as_it_is(parameter: Tensor) -> Tensor:
    """The `Fetch` of models that lie in memory."""
    return parameter


def replace_layers_(
    model: nn.Module,
    modules: list[list[WeightOf]],
    packed: Callable[[WeightOf], PackedWeight],
    activations: Activations,
    linear: LinearFactory,
    fetch: Fetch,
    on_layer: Callable[[int, int], None] | None = None,
) -> None:
    """Replaces the modules one after the other; `packed` is asked for one weight at a time.

    Empties `modules`, so that the list does not keep float weights alive. Fetches all other parameters too. Raises
    QuantizationError where the model is itself one of the layers.
    """
    places = _places(model)
    total = len(modules)
    for done in range(1, total + 1):
        weights = modules.pop(0)
        module = weights[0].module
        if id(module) not in places:
            raise QuantizationError(
                "the model is itself one layer; wrap it, e.g. nn.Sequential(layer), so that it can be replaced"
            )
        codes = [packed(weight) for weight in weights]
        fetch_parameters_(module, fetch, {id(weight.parameter) for weight in weights})
        quantized = _counterpart(module, codes, activations, linear).train(module.training)
        for parent, key in places[id(module)]:
            setattr(parent, key, quantized)
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


def set_parameters_(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Replaces parameters by name. They are not written to, for another model may share them."""
    for name, values in parameters.items():
        module, _, key = name.rpartition(".")
        requires_grad = model.get_parameter(name).requires_grad
        setattr(model.get_submodule(module), key, nn.Parameter(values, requires_grad=requires_grad))


def swap_modules_(model: nn.Module, replacements: Mapping[int, nn.Module]) -> None:
    """Puts replacements[id(module)] in every place where that module sits."""
    for identity, places in _places(model).items():
        for parent, key in places if identity in replacements else ():
            setattr(parent, key, replacements[identity])


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id(module) → every parent and attribute where it sits."""
    places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is not None:
                places[id(child)].append((parent, key))
    return places


def _counterpart(
    module: nn.Module, codes: list[PackedWeight], activations: Activations, linear: LinearFactory
) -> nn.Module:
    """The quantized counterpart of one module."""
    if isinstance(module, nn.MultiheadAttention):
        in_proj = linear(codes[0], module.in_proj_bias, activations)
        out_proj = linear(codes[1], module.out_proj.bias, activations)
        return QuantMultiheadAttention(module, in_proj, out_proj)
    (packed,) = codes
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return QuantConv(packed, module, activations)
    assert isinstance(module, nn.Linear)
    layer = linear(packed, module.bias, activations)
    if packed.transform or packed.low_rank:
        return TransformedLinear(layer, packed.transform, packed.low_rank)
    return layer
