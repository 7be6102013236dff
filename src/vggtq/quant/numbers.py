"""Numbers that the inputs of layers are rounded to, and the checks that all number formats share.

Imports nothing heavy, so that a configuration which cannot work is refused before torch is even loaded.
"""

from dataclasses import dataclass

from vggtq.errors import ConfigError, did_you_mean

FLOAT8, MXFP4, NVFP4 = "float8_e4m3", "mxfp4", "nvfp4"
FLOAT4 = (MXFP4, NVFP4)
BLOCKS = {MXFP4: 32, NVFP4: 16}  # inputs of a row that share a scale
FLOAT_INPUT_BITS = {FLOAT8: 8, MXFP4: 4, NVFP4: 4}
OBSERVERS = ("minmax", "percentile", "mse")
ACTIVATION_GRANULARITIES = {"dynamic": ("per_token", "per_tensor"), "static": ("per_tensor", "per_channel")}
PERCENTILE = 99.99


def check_choice(key: str, value: str, options: tuple[str, ...]) -> None:
    """Raises ConfigError, with the options, unless `value` is one of them."""
    if value not in options:
        raise ConfigError(f"{key}={value} is not one of {', '.join(options)}{did_you_mean(value, options)}")


def as_yaml(value: object) -> str:
    """A value as YAML and the command line write it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class Activations:
    """Numbers that a layer's input is rounded to, x ≈ scale · (code - zero_point).

    none: float. dynamic: scales are found at run time, one per token (the default) or one for all that a call sees. static:
    one scale per tensor, found on calibration data before (`vggtq.quant.observers`); per_channel divides every input channel by
    its own largest value first, which the weight makes up for, so that integer products still have one scale. Asymmetric
    numbers have a zero point from minimum and maximum, which pays where inputs are one-sided, as after GELU. Floats are
    dynamic: float8_e4m3 with a scale per token, mxfp4 and nvfp4 in blocks.
    """

    mode: str = "none"
    bits: int = 8
    format: str = "int"
    granularity: str | None = None  # None: per_token if dynamic, per_tensor if static
    symmetric: bool = True
    observer: str = "minmax"  # static: minmax, percentile or mse
    percentile: float = PERCENTILE  # of observer=percentile, in %: what lies beyond it saturates
    clip: float = 1.0  # dynamic per token: the range reaches to this share of the token's largest |x|

    def __post_init__(self) -> None:
        check_choice("scheme.activations.mode", self.mode, ("none", "dynamic", "static"))
        check_choice("scheme.activations.format", self.format, ("int", *FLOAT_INPUT_BITS))
        check_choice("scheme.activations.observer", self.observer, OBSERVERS)
        if self.format != "int":
            self._check_float()
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"scheme.activations.bits={self.bits}: activations have 2 to 8 bits; try 8")
        self._check_granularity()
        self._check_observer()
        self._check_clip()

    def _check_float(self) -> None:
        bits = FLOAT_INPUT_BITS[self.format]
        if self.bits != bits:
            raise ConfigError(
                f"scheme.activations.bits={self.bits}: {self.format} activations have {bits} bits; use {bits}"
            )
        own = "token" if self.format == FLOAT8 else "block"
        if self.mode == "static" or not self.symmetric or self.granularity not in (None, f"per_{own}"):
            raise ConfigError(
                f"scheme.activations.mode={self.mode} granularity={as_yaml(self.granularity)} "
                f"symmetric={as_yaml(self.symmetric)}: {self.format} activations have a scale per {own} and no zero point; "
                f"use mode=dynamic granularity=null symmetric=true"
            )

    def _check_granularity(self) -> None:
        if self.mode == "none":
            if self.granularity is not None or not self.symmetric:
                raise ConfigError(
                    f"scheme.activations.granularity={as_yaml(self.granularity)} symmetric={as_yaml(self.symmetric)} with "
                    f"mode=none: float activations are not rounded; set scheme.activations.mode=dynamic or static"
                )
            return
        if self.format in FLOAT4:
            return
        options = ACTIVATION_GRANULARITIES[self.mode]
        if self.granularity is not None and self.granularity not in options:
            other = "static" if self.mode == "dynamic" else "dynamic"
            known = self.granularity in ACTIVATION_GRANULARITIES[other]
            remedy = f"scheme.activations.mode={other}, or " if known else ""
            raise ConfigError(
                f"scheme.activations.granularity={self.granularity}: {self.mode} activations are rounded {' or '.join(options)}"
                f"{did_you_mean(self.granularity, options)}; use {remedy}granularity={options[0]}"
            )

    def _check_observer(self) -> None:
        if self.observer != "minmax" and self.mode != "static":
            raise ConfigError(
                f"scheme.activations.observer={self.observer} with mode={self.mode}: only static activations are observed; "
                f"set scheme.activations.mode=static, or observer=minmax"
            )
        if self.percentile != PERCENTILE and self.observer != "percentile":
            raise ConfigError(
                f"scheme.activations.percentile={self.percentile} with observer={self.observer}: "
                f"set scheme.activations.observer=percentile, or leave the percentile out"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigError(
                f"scheme.activations.percentile={self.percentile}: between 50 and 100 % of the inputs stay within the range; "
                f"99.9 to 99.999 are usual"
            )

    def _check_clip(self) -> None:
        if not 0.3 <= self.clip <= 1:
            raise ConfigError(
                f"scheme.activations.clip={self.clip}: use a share between 0.3 and 1; 0.9 is usual"
            )
        clips = self.clip < 1 and self.mode != "none"
        if clips and (self.mode, self.format, self.symmetric) != ("dynamic", "int", True):
            raise ConfigError(
                f"scheme.activations.clip={self.clip} with mode={self.mode} format={self.format} "
                f"symmetric={as_yaml(self.symmetric)}: only symmetric integers with dynamic scales are clipped; "
                "set scheme.activations.clip=1"
            )

    @property
    def scale_granularity(self) -> str | None:
        """What shares a scale, None for float activations."""
        if self.mode == "none" or self.granularity is not None:
            return self.granularity
        if self.format in FLOAT4:
            return "per_block"
        return ACTIVATION_GRANULARITIES[self.mode][0]

    @property
    def largest_code(self) -> int:
        """Of symmetric codes."""
        return 2 ** (self.bits - 1) - 1

    @property
    def per_token(self) -> bool:
        """Whether each row has one scale that its largest value sets, and no zero point: the numbers that most kernels know."""
        dynamic = self.mode == "dynamic" and self.symmetric and self.clip == 1
        return dynamic and self.scale_granularity == "per_token"

    @property
    def label(self) -> str:
        """What a scheme's label says of inputs, e.g. `inputs per-tensor asymmetric MSE`; empty for those per token."""
        granularity = self.scale_granularity
        if granularity is None or self.per_token or self.format in FLOAT4:
            return ""
        parts = ["inputs", granularity.replace("_", "-")]
        if self.clip < 1:
            parts.append(f"clipped {self.clip:g}")
        if not self.symmetric:
            parts.append("asymmetric")
        if self.observer != "minmax":
            parts.append("MSE" if self.observer == "mse" else f"{self.percentile:g} %")
        return " ".join(parts)
