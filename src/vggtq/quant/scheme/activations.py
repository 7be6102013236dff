"""The numbers of activations: bits, granularity, how ranges are found."""

from dataclasses import dataclass

from vggtq.errors import ConfigError, check_choice, did_you_mean
from vggtq.quant.scheme.formats import FORMATS, Format, as_yaml

OBSERVERS = ("minmax", "mse")
ACTIVATION_GRANULARITIES = {"dynamic": ("per_token", "per_tensor"), "static": ("per_tensor",)}

TORCH_NUMBERS = ("dynamic", 8, "int", "per_tensor", False)


@dataclass
class Activations:
    """The number format of a layer's inputs, x ≈ scale · (code - zero_point).

    Modes: none keeps inputs in float. dynamic computes scales at run time, one per token (the default) or one for all tokens of
    a call. static has one scale per tensor, from calibration data (`methods.ranges`). Asymmetric codes have a zero point from
    minimum and maximum, which lowers the error of one-sided inputs, as after GELU. Float formats are dynamic: float8_e4m3 with
    a scale per token, mxfp4 and nvfp4 in blocks.
    """

    mode: str = "none"
    bits: int = 8
    format: str = "int"
    granularity: str | None = None  # None: per_token if dynamic, per_tensor if static
    symmetric: bool = True
    observer: str = "minmax"  # static: minmax or mse
    clip: float = 1.0  # dynamic per token: the range reaches to this share of the token's largest |x|
    kernel: str = "fastest"  # fastest: whatever computes these numbers; torch: PyTorch's own, to compare with

    def __post_init__(self) -> None:
        check_choice("scheme.activations.mode", self.mode, ("none", "dynamic", "static"))
        check_choice("scheme.activations.format", self.format, _input_formats())
        check_choice("scheme.activations.kernel", self.kernel, ("fastest", "torch"))
        if self.kernel == "torch" and self._numbers != TORCH_NUMBERS:
            raise ConfigError(
                f"scheme.activations.kernel=torch with mode={self.mode} bits={self.bits} "
                f"granularity={as_yaml(self.granularity)} symmetric={as_yaml(self.symmetric)}: PyTorch's kernel rounds "
                "mode=dynamic bits=8 granularity=per_tensor symmetric=false; use scheme=torch_dynamic"
            )
        if self.observer == "percentile":
            raise ConfigError(
                "scheme.activations.observer=percentile was removed; use scheme.activations.observer=mse"
            )
        check_choice("scheme.activations.observer", self.observer, OBSERVERS)
        if not self.entry.integer:
            self._check_float()
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"scheme.activations.bits={self.bits}: activations have 2 to 8 bits; try 8")
        self._check_granularity()
        self._check_observer()
        self._check_clip()

    def _check_float(self) -> None:
        bits, share = self.entry.input_bits, self.entry.inputs_share
        if self.bits != bits:
            raise ConfigError(
                f"scheme.activations.bits={self.bits}: {self.format} activations have {bits} bits; use {bits}"
            )
        if self.mode == "static" or not self.symmetric or self.granularity not in (None, f"per_{share}"):
            raise ConfigError(
                f"scheme.activations.mode={self.mode} granularity={as_yaml(self.granularity)} "
                f"symmetric={as_yaml(self.symmetric)}: {self.format} activations have a scale per {share} and no zero point; "
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
        if self.entry.block:
            return
        options = ACTIVATION_GRANULARITIES[self.mode]
        if (self.mode, self.granularity) == ("static", "per_channel"):
            raise ConfigError(
                "scheme.activations.granularity=per_channel was removed; scheme.transform.scale=smooth "
                "scheme.transform.alpha=1 with granularity=per_tensor divides every input channel by its largest value as well"
            )
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

    def _check_clip(self) -> None:
        if not 0.3 <= self.clip <= 1:
            raise ConfigError(
                f"scheme.activations.clip={self.clip}: use a share between 0.3 and 1; 0.9 is usual"
            )
        clips = self.clip < 1 and self.mode != "none"
        if clips and (self.mode, self.entry.integer, self.symmetric) != ("dynamic", True, True):
            raise ConfigError(
                f"scheme.activations.clip={self.clip} with mode={self.mode} format={self.format} "
                f"symmetric={as_yaml(self.symmetric)}: only symmetric integers with dynamic scales are clipped; "
                "set scheme.activations.clip=1"
            )

    @property
    def _numbers(self) -> tuple[object, ...]:
        return self.mode, self.bits, self.format, self.granularity, self.symmetric

    @property
    def entry(self) -> Format:
        """The table entry of the format."""
        return FORMATS[self.format]

    @property
    def scale_granularity(self) -> str | None:
        """The granularity of scales, None for float activations."""
        if self.mode == "none" or self.granularity is not None:
            return self.granularity
        if self.entry.block:
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
        """The label's part on inputs, e.g. `inputs per-tensor asymmetric MSE`; empty for per-token ones."""
        granularity = self.scale_granularity
        if granularity is None or self.per_token or self.entry.block:
            return ""
        parts = ["inputs", granularity.replace("_", "-")]
        if self.clip < 1:
            parts.append(f"clipped {self.clip:g}")
        if not self.symmetric:
            parts.append("asymmetric")
        if self.observer != "minmax":
            parts.append(self.observer.upper())
        return " ".join(parts)


def _input_formats() -> tuple[str, ...]:
    return tuple(name for name, entry in FORMATS.items() if entry.integer or entry.input_bits)
