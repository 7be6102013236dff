"""The numbers of weights: bits, format, granularity, group size."""

from dataclasses import dataclass

from vggtq.errors import ConfigError, check_choice
from vggtq.quant.scheme.formats import FORMATS, Format, as_yaml
from vggtq.quant.scheme.parts import check_int_bits

PROGRESSIVE = "progressive"
MOST_PROGRESSIVE = 15  # the largest integer scale of a group
GRANULARITIES = ("per_tensor", "per_channel", "group", "none")


@dataclass
class Weights:
    """The number format of stored weights.

    Integers: w ≈ scale · (code - zero_point), Jacob et al. 2018 (arXiv 1712.05877), eq. 1. Symmetric codes are
    -(2^(b-1)-1) … 2^(b-1)-1 without zero point; asymmetric codes are 0 … 2^b-1. A scale belongs to the whole tensor, to an
    output channel, or to a group of `group_size` consecutive inputs of one output row; the last group of a row may be
    shorter. group_size=null means no groups: the whole row shares one scale. scale_dtype=progressive (Lin et al. 2024, QServe,
    arXiv 2405.04532, section 4): w ≈ channel_scale · group_scale · code with a float32 scale per output channel and an integer
    of 1 … 15 per group, which a product of integers applies exactly (`vggtq.quant.numbers.progressive`).

    float8_e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): w ≈ scale · code with 8-bit floats up to ±448 and a float32 scale
    per output channel or tensor. mxfp4 and nvfp4: 4-bit floats in blocks of 32 or 16 inputs with an 8-bit float as scale
    (`vggtq.quant.numbers.float4`). float16 and bfloat16 have no scale.
    """

    format: str = "int"
    bits: int = 8
    symmetric: bool = True
    granularity: str = "per_channel"
    group_size: int | None = None
    scale_dtype: str = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.format, int):
            raise ConfigError(
                f"Weights({self.format}): say what the number is, as in Weights(bits={self.format})"
            )
        check_choice("scheme.weights.format", self.format, FORMATS)
        check_choice("granularity", self.granularity, GRANULARITIES)
        if self.entry.integer:
            self._check_integer()
        else:
            self._check_float()

    @property
    def entry(self) -> Format:
        """The table entry of the format."""
        return FORMATS[self.format]

    def _check_float(self) -> None:
        entry = self.entry
        if self.bits not in entry.bits:
            raise ConfigError(
                f"bits={self.bits}: {self.format} weights have {' or '.join(map(str, entry.bits))} bits; leave bits out, "
                f"or choose an integer scheme such as scheme=int4_group"
            )
        if self.granularity not in entry.granularities or self.group_size != entry.block:
            shares = f"blocks of {entry.block}" if entry.block else "a scale per channel or per tensor"
            raise ConfigError(
                f"granularity={self.granularity} group_size={as_yaml(self.group_size)}: {self.format} weights have "
                f"{shares if entry.scaled else 'no scales'}; use granularity={entry.granularities[0]} "
                f"group_size={as_yaml(entry.block)}, or an integer scheme such as scheme=int4_group"
            )
        if entry.scaled and (self.scale_dtype not in entry.scale_dtypes or not self.symmetric):
            scale = entry.scale_dtypes[0]
            raise ConfigError(
                f"scheme.weights.scale_dtype={self.scale_dtype} scheme.weights.symmetric={as_yaml(self.symmetric)}: "
                f"{self.format} weights have {scale} scales and no zero points; use scale_dtype={scale} symmetric=true"
            )

    def _check_integer(self) -> None:
        check_int_bits("bits", self.bits)
        check_choice("scheme.weights.scale_dtype", self.scale_dtype, self.entry.scale_dtypes)
        if self.granularity == "none":
            raise ConfigError(
                "granularity=none: integer weights need a scale; use granularity=per_tensor, per_channel or group"
            )
        if self.group_size is not None and self.granularity != "group":
            raise ConfigError(
                f"group_size={self.group_size} with granularity={self.granularity}: only granularity=group has groups; "
                f"set group_size=null (a scheme may have set {self.group_size}) or granularity=group"
            )
        if self.group_size is not None and self.group_size < 2:
            raise ConfigError(
                f"group_size={self.group_size}: a group has at least 2 weights; "
                f"use 32, 64 or 128, or group_size=null for one scale per row"
            )
        if self.progressive and not (self.symmetric and self.bits <= 4 and self.group_size is not None):
            raise ConfigError(
                f"scheme.weights.scale_dtype=progressive with bits={self.bits} symmetric={as_yaml(self.symmetric)} "
                f"group_size={as_yaml(self.group_size)}: integer scales are for symmetric groups of at most 4 bits, so that "
                f"products with them stay bytes; use bits=4 symmetric=true granularity=group group_size=64, or "
                f"scale_dtype=float16"
            )
        if self.bits == 16 and self.scale_dtype == "float16":
            raise ConfigError(
                "scheme.weights.scale_dtype=float16 with bits=16: a float16 scale is off by up to 16 such steps; "
                "use scheme.weights.scale_dtype=float32"
            )

    @property
    def progressive(self) -> bool:
        """Whether groups have integer scales below the float scale of their channel."""
        return self.scale_dtype == PROGRESSIVE

    @property
    def qmin(self) -> int:
        return -self.qmax if self.symmetric else 0

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1
