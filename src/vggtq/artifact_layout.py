"""Whether the tensors of an artifact are those that its network needs, by name and shape, before any is read."""

from collections.abc import Mapping

from torch import nn

from vggtq.errors import QuantizationError, WeightsError
from vggtq.quant.layers import LOW_RANK, weight_rows
from vggtq.quant.select import named_weights

# What a quantized layer may consist of.
PACKED = ("codes", "scale", "zero_point", "tensor_scale", "input_scale", *LOW_RANK)
RANGE = ("activation_scale", "activation_zero_point")  # its own even where layers share their weight
Layout = Mapping[str, tuple[tuple[int, ...], str]]


def check_layout(skeleton: nn.Module, stored: Layout, layers: Mapping[str, str], where: str) -> None:
    """skeleton: the float network. layers: name of a quantized layer to the name that its codes are stored under.

    Raises WeightsError for layers that the network lacks, for tensors that are missing or too many, and for other shapes.
    """
    try:
        modules = named_weights(skeleton, list(layers))
    except QuantizationError as error:
        raise WeightsError(f"{where}: {error}; is this an artifact of another network?") from error
    rest = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict(keep_vars=True).items()}
    names = {id(p): name for name, p in skeleton.state_dict(keep_vars=True).items()}
    rows = {}
    for weight in (weight for own in modules for weight in own):
        assert weight.parameter is not None
        rest.pop(names[id(weight.parameter)], None)
        rows[layers[weight.name]] = weight_rows(weight.parameter, weight.transposed, weight.groups).shape[0]
    packed = {f"{owner}.{key}" for owner in rows for key in PACKED}
    packed |= {f"{name}.{key}" for name in layers for key in RANGE}
    missing = [name for name in (*rest, *(f"{owner}.codes" for owner in rows)) if name not in stored]
    extra = [name for name in stored if name not in rest and name not in packed]
    if missing or extra:
        what = f"{missing[0]} is missing" if missing else f"{extra[0]} is unknown to the network"
        raise WeightsError(
            f"{where}: {len(missing)} tensors missing, {len(extra)} too many ({what}); "
            "damaged, or an artifact of another network"
        )
    for name, (shape, _) in stored.items():
        owner, _, key = name.rpartition(".")
        wanted = rest.get(name)
        if wanted is None and key in RANGE:
            wanted = (1,)
        wrong = shape != wanted if wanted is not None else key == "codes" and shape[:1] != (rows[owner],)
        if wrong:
            raise WeightsError(
                f"{where}: {name} has shape {shape}, the network needs {wanted or f'{rows[owner]} rows'}; "
                "damaged, or an artifact of another network"
            )
