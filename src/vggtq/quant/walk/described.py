"""Describes the quantized layers of a network, read off the modules that stand in their places at the end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from vggtq.quant.kernels.modules import QuantConv, QuantMultiheadAttention, TransformedLinear
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.select import KeptLayer
from vggtq.quant.walk.stored import weight_layer


@dataclass(frozen=True)
class QuantizedLayer:
    """The result of quantizing one layer. Bytes include the bias; weight_sqnr_db is infinite where nothing was
    lost.
    """

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
    input_range: tuple[float, float] | None = None  # range of static activations


@dataclass(repr=False)
class Quantization:
    """The result of `quantize_`: layers that were replaced, layers that were kept, and decisions to report to
    the user.
    """

    layers: list[QuantizedLayer] = field(default_factory=list)
    kept: list[KeptLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calibration_passes: int = 0  # of the whole model
    calibration_groups: int = 0  # layers that were observed together
    calibration_seconds: float = 0.0  # of `seconds`, spent on running the model
    # norms and MLPs that round their outputs (`vggtq.quant.kernels.cuda.fuse`), or blocks on `cpu.native_block`
    fused: list[str] = field(default_factory=list)
    compute: str = "float32"  # the dtype of parts that are not quantized, as `scheme.compute`, auto resolved

    def __repr__(self) -> str:
        return f"Quantization({len(self.layers)} layers quantized, {len(self.kept)} kept)"


def describe_layers(
    model: nn.Module, names: Iterable[str], special_ratios: Mapping[str, float | None] | None = None
) -> list[QuantizedLayer]:
    """The quantized layers that the float model called `names`. special_ratios: of those that were observed."""
    return [_describe(model, name, (special_ratios or {}).get(name)) for name in names]


def _describe(model: nn.Module, name: str, special_ratio: float | None) -> QuantizedLayer:
    module, layer = model.get_submodule(name), weight_layer(model, name)
    scale = branch = None
    if isinstance(module, TransformedLinear):
        scale, branch = module.transform.scale, module.low_rank
    scale_bytes = 0 if scale is None else scale.nbytes
    branch_bytes = 0 if branch is None else branch.stored_bytes
    bias = layer.bias
    range_bytes = 0 if layer.input_range is None else InputRange.BYTES
    stored_bytes = layer.stored_weight_bytes + scale_bytes + range_bytes + branch_bytes
    shape = module.weight_shape if isinstance(module, QuantConv) else (layer.out_features, layer.in_features)
    return QuantizedLayer(
        name=name,
        type=_float_type(model, name),
        shape=shape,
        weights=layer.spec,
        activation_bits=layer.activation_bits,
        backend=module.backend if isinstance(module, QuantConv) else layer.backend,
        simulated=layer.simulated,
        stored_bytes=stored_bytes + (0 if bias is None else bias.nbytes),
        resident_bytes=layer.resident_bytes() + scale_bytes + branch_bytes,
        float32_bytes=4 * (layer.out_features * layer.in_features + (0 if bias is None else bias.numel())),
        weight_sqnr_db=layer.weight_sqnr_db,
        notes=layer.weight_notes + layer.notes,
        weight_notes=layer.weight_notes,
        rotation=layer.turn.rotation,
        merged=layer.turn.merged,
        rotation_first=layer.turn.rotation_first,
        special_ratio=special_ratio,
        rank=0 if branch is None else len(branch.down),
        rule="" if isinstance(module, QuantConv) else layer.rule,
        input_range=None if layer.input_range is None else layer.input_range.ends,
    )


def _float_type(model: nn.Module, name: str) -> str:
    """The class of the float module that held the weight `name`."""
    module = model.get_submodule(name)
    if isinstance(module, QuantConv):
        return "ConvTranspose2d" if module.transposed else "Conv2d"
    parent = model.get_submodule(name.rpartition(".")[0])
    return "MultiheadAttention" if isinstance(parent, QuantMultiheadAttention) else "Linear"
