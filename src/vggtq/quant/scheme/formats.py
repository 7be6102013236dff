"""Number formats: one entry for each, with all its properties. Imports nothing heavy.

A format from outside of the package is an entry that `register_format` gets, and its `arithmetic`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from vggtq.quant.scheme.registry import Registry, resolved

if TYPE_CHECKING:
    from torch import Tensor

    from vggtq.quant.scheme.activations import Activations
    from vggtq.quant.scheme.methods import Rounding
    from vggtq.quant.scheme.weights import Weights

INT_BITS = (*range(2, 9), 16)


class Arithmetic(Protocol):
    """The functions that compute with a format, in a module or an object."""

    def encode(self, rows: "Tensor", spec: "Weights", rounding: "Rounding") -> "dict[str, Tensor]":
        """A finite weight (R, C) to the tensors that are stored: `codes`, of R rows, and `scale`, `zero_point`, `tensor_scale`.

        Only `codes` is required. Integers have no such function: roundings make their codes
        (`methods.RoundingMethod`).
        """
        ...

    def decode(self, packed: Any, block: slice) -> "Tensor":
        """The rows `block` of the weight that a `vggtq.quant.numbers.packed.PackedWeight` stands for, (r, C) float32."""
        ...

    def round_inputs(self, rows: "Tensor", numbers: "Activations") -> "Tensor":
        """rows (T, C) rounded and brought back, any float dtype; only for formats with `input_bits`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format of weights, and of inputs where it has `input_bits`.

    label: how tables call it; bits follow for integers. bits: that a weight may have. granularities: what may share a scale,
    `none` where there are no scales. scale_dtypes: of the scales. Of both the first is proposed. block: inputs of a row that
    share a scale, where the format says so. input_bits: of inputs with a scale per token or block, found at run time.
    roundings: methods that it knows, None for all. transforms: whether weights may be rounded in another basis. arithmetic: an
    `Arithmetic`, or the name of a module that is one.
    """

    name: str
    label: str
    bits: tuple[int, ...]
    granularities: tuple[str, ...]
    arithmetic: "str | Arithmetic"
    scale_dtypes: tuple[str, ...] = ("float32",)
    block: int | None = None
    input_bits: int | None = None
    roundings: tuple[str, ...] | None = ("nearest",)
    transforms: bool = False
    # Uniform steps, with zero points where they are asymmetric; bits may differ from layer to layer and steps be trained.
    integer: bool = False
    # The stored weights of a checkpoint are kept: nothing is replaced.
    exact: bool = False

    @property
    def computes(self) -> "Arithmetic":
        """`arithmetic`, imported."""
        return cast("Arithmetic", resolved(self.arithmetic))

    @property
    def scaled(self) -> bool:
        return self.granularities != ("none",)

    @property
    def inputs_share(self) -> str:
        """The unit of inputs that shares a scale in this format: a block or a token."""
        return "block" if self.block else "token"


_PLAIN = "vggtq.quant.numbers.plain"
_FLOAT4 = "vggtq.quant.numbers.float4"

FORMATS: Registry[Format] = Registry(
    "number format",
    Format(
        name="int",
        label="INT",
        bits=INT_BITS,
        granularities=("per_channel", "per_tensor", "group"),
        arithmetic="vggtq.quant.numbers.integers",
        scale_dtypes=("float32", "float16", "progressive"),
        roundings=None,
        transforms=True,
        integer=True,
    ),
    Format(
        name="float8_e4m3",
        label="FP8",
        bits=(8,),
        granularities=("per_channel", "per_tensor"),
        arithmetic="vggtq.quant.numbers.float8",
        input_bits=8,
    ),
    Format(
        name="mxfp4",
        label="MXFP4",
        bits=(4,),
        granularities=("group",),
        arithmetic=_FLOAT4,
        scale_dtypes=("float8_e8m0",),
        block=32,
        input_bits=4,
        roundings=("nearest", "mse"),
        transforms=True,
    ),
    Format(
        name="nvfp4",
        label="NVFP4",
        bits=(4,),
        granularities=("group",),
        arithmetic=_FLOAT4,
        scale_dtypes=("float8_e4m3",),
        block=16,
        input_bits=4,
        roundings=("nearest", "mse"),
        transforms=True,
    ),
    Format(name="float32", label="FP32", bits=(32,), granularities=("none",), arithmetic=_PLAIN, exact=True),
    Format(name="float16", label="FP16", bits=(16,), granularities=("none",), arithmetic=_PLAIN),
    Format(name="bfloat16", label="BF16", bits=(16,), granularities=("none",), arithmetic=_PLAIN),
)

register_format = FORMATS.register


def as_yaml(value: object) -> str:
    """A value as YAML and the command line write it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
