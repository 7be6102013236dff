"""The methods that round weights, and those that prepare them: a table of roundings, one of channel scales.
Imports nothing heavy.

Methods that a module outside of the package adds with `register_rounding` and `register_scale` can be named
like the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vggtq.errors import ConfigError, check_choice
from vggtq.quant.scheme.registry import Registry


@dataclass(frozen=True, kw_only=True)
class RoundingMethod:
    """A method that turns integer weights into codes.

    label: its name in tables, empty if not worth mentioning. parameters: rows (R, C) float32 and Weights to
    scale and zero point as `vggtq.quant.numbers.rounding.quantization_parameters` gives them. `takes` names its
    keyword arguments: `gram`, (C, C) of the inputs where it is known, `rounding`, the options. codes: (rows,
    scale, zero_point, Weights, Rounding, gram) to codes (R, C) int32 in qmin … qmax; without it each weight
    gets the nearest code. needs_data: whether statistics of the inputs have to be there. Functions are given as
    such, or as `module:function`.
    """

    name: str
    label: str
    parameters: str | Callable[..., Any] = "vggtq.quant.numbers.rounding:quantization_parameters"
    takes: tuple[str, ...] = ()
    codes: str | Callable[..., Any] | None = None
    needs_data: bool = False


ROUNDINGS: Registry[RoundingMethod] = Registry(
    "rounding",
    RoundingMethod(name="nearest", label=""),
    RoundingMethod(
        name="mse",
        label="MSE",
        parameters="vggtq.quant.methods.clipping:clipped_parameters",
        takes=("gram",),
    ),
    RoundingMethod(
        name="hqq", label="HQQ", parameters="vggtq.quant.methods.clipping:half_quadratic_parameters"
    ),
    RoundingMethod(
        name="gptq",
        label="GPTQ",
        parameters="vggtq.quant.methods.gptq:static_parameters",
        takes=("rounding",),
        codes="vggtq.quant.methods.gptq:compensated_codes",
        needs_data=True,
    ),
    RoundingMethod(
        name="torch",
        label="PyTorch",
        parameters="vggtq.quant.methods.torch_minmax:parameters",
        codes="vggtq.quant.methods.torch_minmax:codes",
    ),
)

register_rounding = ROUNDINGS.register


@dataclass(frozen=True, kw_only=True)
class ScaleMethod:
    """A method that scales input channels before weights are rounded.

    function: a weight (R, C), with the keyword arguments that `takes` names, to scales (C,), or None for none.
    The weight is multiplied by the scales and its inputs are divided by them. Keyword arguments: `statistics`
    (`vggtq.quant.methods.statistics.InputStatistics`), which requires calibration data, `alpha` of the scheme,
    `round_trip`, a weight to its rounded values.
    """

    name: str
    label: str
    function: str | Callable[..., Any] | None
    takes: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        return "statistics" in self.takes


_SCALES = "vggtq.quant.methods.scales"

SCALES: Registry[ScaleMethod] = Registry(
    "channel scale",
    ScaleMethod(name="none", label="", function=None),
    ScaleMethod(
        name="smooth",
        label="SmoothQuant",
        function=f"{_SCALES}:smooth_scale",
        takes=("statistics", "alpha"),
    ),
    ScaleMethod(name="balance", label="balanced", function=f"{_SCALES}:balance_scale", takes=("statistics",)),
    ScaleMethod(name="awq", label="AWQ", function=f"{_SCALES}:awq_scale", takes=("statistics", "round_trip")),
    ScaleMethod(name="sinkhorn", label="SINQ", function=f"{_SCALES}:sinkhorn_scale"),
)

register_scale = SCALES.register


@dataclass
class Rounding:
    """The conversion of weights to codes (`vggtq.quant.methods.clipping`, `vggtq.quant.methods.gptq`).

    nearest: round-to-nearest with min-max scales. mse: scales of least squared error, of the layer's output if
    a transform has collected calibration data, else of the weight. hqq: scales and zero points from the weight
    alone. gptq: the weights of a row that are not rounded yet compensate the error of each rounded one, by
    calibration data; `clip`: with the scales of mse. torch: as PyTorch's quantize_dynamic, for 8 bits per
    tensor.
    """

    method: str = "nearest"
    clip: bool = True  # gptq
    act_order: bool = True  # gptq: inputs with the most power first
    damping: float = 0.01  # gptq: of the mean power, added to every input's

    def __post_init__(self) -> None:
        check_choice("scheme.rounding.method", self.method, ROUNDINGS)
        if not 0 < self.damping < 10:
            raise ConfigError(f"scheme.rounding.damping={self.damping}: use a positive number; 0.01 is usual")

    @property
    def entry(self) -> RoundingMethod:
        """The table entry of the method."""
        return ROUNDINGS[self.method]


@dataclass
class Transform:
    """The basis that weights are rounded in (`vggtq.quant.methods.scales`): a scale per input channel, and a Hadamard rotation.

    smooth, balance and awq look at calibration data, sinkhorn at the weight alone. first: which comes first where there are
    both, scale, which norms in front can take over, or hadamard, as in QuantVGGT (Feng et al. 2025, arXiv 2509.21302).
    """

    scale: str = "none"
    alpha: float = 0.5  # smooth: how much of the activations' outliers moves into the weights
    hadamard: bool = False
    first: str = "scale"

    def __post_init__(self) -> None:
        check_choice("scheme.transform.scale", self.scale, SCALES)
        check_choice("scheme.transform.first", self.first, ("scale", "hadamard"))
        if not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"scheme.transform.alpha={self.alpha}: alpha lies between 0 and 1; 0.5 is usual"
            )

    @property
    def entry(self) -> ScaleMethod:
        """The table entry of the channel scale."""
        return SCALES[self.scale]


@dataclass
class Compensation:
    """A low-rank branch in half precision beside every quantized linear layer (`methods.low_rank`); rank 0: none."""

    rank: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"scheme.compensation.rank={self.rank}: use 0 for no branch, or 8 to 64")
