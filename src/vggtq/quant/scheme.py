"""A scheme is a recipe: which layers, which numbers for their weights, which for their activations.

The dataclasses are the schema of `conf/scheme/*.yaml` and the argument of `quantize_` alike. They import nothing heavy, so
that a configuration which cannot work is refused before torch is even loaded.
"""

from dataclasses import dataclass, field, replace

from vggtq.errors import ConfigError
from vggtq.quant.finetune.settings import Finetune
from vggtq.quant.labels import family_of, label_of
from vggtq.quant.mixed import Mixed, check_int_bits
from vggtq.quant.numbers import BLOCKS, FLOAT4, FLOAT8, MXFP4, NVFP4, Activations, as_yaml, check_choice

FLOAT_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
FORMATS = ("int", FLOAT8, *FLOAT4, *FLOAT_BITS)
BLOCK_SCALES = {MXFP4: "float8_e8m0", NVFP4: "float8_e4m3"}
ROUNDINGS = ("nearest", "mse", "hqq", "gptq")
SCALES = ("none", "smooth", "balance", "awq", "sinkhorn")
GRANULARITIES = ("per_tensor", "per_channel", "group", "none")
ATTENTIONS = tuple(FLOAT_BITS)
LAYER_TYPES = ("Linear", "MultiheadAttention", "Conv2d", "ConvTranspose2d")


@dataclass
class Weights:
    """Numbers that weights are stored in.

    Integers: w ≈ scale · (code - zero_point), Jacob et al. 2018 (arXiv 1712.05877), eq. 1. Symmetric codes are
    -(2^(b-1)-1) … 2^(b-1)-1 without zero point; asymmetric codes are 0 … 2^b-1. A scale belongs to the whole tensor, to an
    output channel, or to a group of `group_size` consecutive inputs of one output row; the last group of a row may be
    shorter. group_size=null means no groups: the whole row shares one scale.

    float8_e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): w ≈ scale · code with 8-bit floats up to ±448 and a float32 scale
    per output channel or tensor. mxfp4 and nvfp4: 4-bit floats in blocks of 32 or 16 inputs with an 8-bit float as scale
    (`vggtq.quant.float4`). float16 and bfloat16 have no scale.
    """

    format: str = "int"
    bits: int = 8
    symmetric: bool = True
    granularity: str = "per_channel"
    group_size: int | None = None
    scale_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice("scheme.weights.format", self.format, FORMATS)
        check_choice("granularity", self.granularity, GRANULARITIES)
        if self.format not in FLOAT4:
            check_choice("scheme.weights.scale_dtype", self.scale_dtype, ("float32", "float16"))
        if self.format == "int":
            self._check_integer()
        elif self.format == FLOAT8:
            self._check_float8()
        elif self.format in FLOAT4:
            self._check_float4()
        else:
            self._check_float()

    def _check_float8(self) -> None:
        if self.bits != 8:
            raise ConfigError(
                f"bits={self.bits}: {self.format} weights have 8 bits; leave bits out, or choose an integer scheme "
                f"such as scheme=int4_group"
            )
        if self.granularity not in ("per_tensor", "per_channel") or self.group_size is not None:
            raise ConfigError(
                f"granularity={self.granularity} group_size={as_yaml(self.group_size)}: {self.format} weights have a scale per "
                f"channel or per tensor; use granularity=per_channel group_size=null, or an integer scheme"
            )
        if self.scale_dtype != "float32" or not self.symmetric:
            raise ConfigError(
                f"scheme.weights.scale_dtype={self.scale_dtype} scheme.weights.symmetric={as_yaml(self.symmetric)}: "
                f"{self.format} weights have float32 scales and no zero points; leave both out"
            )

    def _check_float4(self) -> None:
        if self.bits != 4:
            raise ConfigError(
                f"bits={self.bits}: {self.format} weights have 4 bits; leave bits out, or choose an integer scheme "
                f"such as scheme=int4_group"
            )
        block, scale = BLOCKS[self.format], BLOCK_SCALES[self.format]
        if (self.granularity, self.group_size) != ("group", block):
            raise ConfigError(
                f"granularity={self.granularity} group_size={as_yaml(self.group_size)}: {self.format} weights have blocks of "
                f"{block}; use granularity=group group_size={block}, or an integer scheme such as scheme=int4_group"
            )
        if self.scale_dtype != scale or not self.symmetric:
            raise ConfigError(
                f"scheme.weights.scale_dtype={self.scale_dtype} scheme.weights.symmetric={as_yaml(self.symmetric)}: "
                f"{self.format} weights have {scale} scales and no zero points; use scale_dtype={scale} symmetric=true"
            )

    def _check_float(self) -> None:
        bits = FLOAT_BITS[self.format]
        if self.bits != bits:
            raise ConfigError(
                f"bits={self.bits}: this scheme stores {self.format} weights, which have {bits} bits; "
                f"leave bits out, or choose an integer scheme such as scheme=int4_group"
            )
        if self.granularity != "none" or self.group_size is not None:
            raise ConfigError(
                f"granularity={self.granularity} group_size={as_yaml(self.group_size)}: {self.format} weights have no scales; "
                f"leave both out, or choose an integer scheme"
            )

    def _check_integer(self) -> None:
        check_int_bits("bits", self.bits)
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
        if self.bits == 16 and self.scale_dtype == "float16":
            raise ConfigError(
                "scheme.weights.scale_dtype=float16 with bits=16: a float16 scale is off by up to 16 such steps; "
                "use scheme.weights.scale_dtype=float32"
            )

    @property
    def is_float(self) -> bool:
        return self.format != "int"

    @property
    def qmin(self) -> int:
        return -self.qmax if self.symmetric else 0

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


@dataclass
class Layers:
    """Which layers: fnmatch patterns on full dotted names, and module types.

    skip_first_last keeps the input convolution and the output layer of every head in float, as the model declares them.
    """

    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=lambda: ["Linear", "MultiheadAttention"])
    skip_first_last: bool = True

    def __post_init__(self) -> None:
        if not self.types:
            raise ConfigError(
                f"scheme.layers.types=[]: name at least one of {', '.join(LAYER_TYPES)}; for no quantization use scheme=fp32"
            )
        for name in self.types:
            check_choice("scheme.layers.types", name, LAYER_TYPES)


@dataclass
class Rounding:
    """How weights become codes (`vggtq.quant.clipping`, `vggtq.quant.gptq`).

    nearest: min-max scales. mse: scales with less error, that of the layer's output where a transform has calibration data
    collected. hqq: scales and zero points from the weight alone. gptq: the other inputs of a row absorb the error of each, by
    calibration data; with `clip` on the scales of mse.
    """

    method: str = "nearest"
    clip: bool = True  # gptq
    act_order: bool = True  # gptq: inputs with the most power first
    damping: float = 0.01  # gptq: of the mean power, added to every input's

    def __post_init__(self) -> None:
        check_choice("scheme.rounding.method", self.method, ROUNDINGS)
        if not 0 < self.damping < 10:
            raise ConfigError(f"scheme.rounding.damping={self.damping}: use a positive number; 0.01 is usual")


@dataclass
class Transform:
    """The basis that weights are rounded in (`vggtq.quant.transform`): a scale per input channel, and a Hadamard rotation.

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


@dataclass
class Compensation:
    """A low-rank branch in half precision beside every quantized linear layer (`vggtq.quant.low_rank`); rank 0: none."""

    rank: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"scheme.compensation.rank={self.rank}: use 0 for no branch, or 8 to 64")


@dataclass
class Scheme:
    """One quantization recipe: layers, transform, rounding, the numbers of weights and activations, and fine-tuning.

    attention: the dtype in which scaled dot products run where the model lets it be chosen; float32 leaves them alone.
    """

    name: str = "int8_symmetric"
    weights: Weights = field(default_factory=Weights)
    activations: Activations = field(default_factory=Activations)
    layers: Layers = field(default_factory=Layers)
    mixed: Mixed = field(default_factory=Mixed)
    rounding: Rounding = field(default_factory=Rounding)
    transform: Transform = field(default_factory=Transform)
    finetune: Finetune = field(default_factory=Finetune)
    compensation: Compensation = field(default_factory=Compensation)
    attention: str = "float32"

    def __post_init__(self) -> None:
        check_choice("scheme.attention", self.attention, ATTENTIONS)
        self._check_methods()
        # Both sides of a product have one format; 16-bit weights are multiplied with float inputs.
        if self.activations.mode != "none" and self.activations.format != self.weights.format:
            raise ConfigError(
                f"scheme.activations.mode={self.activations.mode} scheme.activations.format={self.activations.format} with "
                f"{self.weights.format} weights: both need one format, as in scheme=int8_dynamic and scheme=fp8"
            )
        if (
            not self.weights.is_float
        ):  # the numbers of every layer have to be possible, not only the scheme's own
            by_pattern = {self.mixed.sensitive_bits, self.mixed.normal_bits or self.weights.bits}
            for bits in {*by_pattern, *self.mixed.candidates, *self.mixed.bits.values()}:
                replace(self.weights, bits=bits)
        if self.weights.is_float and self.mixed.given:
            raise ConfigError(
                f"scheme.mixed with {self.weights.format} weights: bits per layer need integer weights; "
                f"use scheme=mixed_precision or scheme=auto_mixed"
            )
        self._check_budget()
        if self.scales_channels and self.transform.scale != "none":
            raise ConfigError(
                f"scheme.activations.granularity=per_channel with scheme.transform.scale={self.transform.scale}: "
                f"both scale input channels; set scheme.transform.scale=none, or granularity=per_tensor"
            )
        if self.mixed.normal_bits is not None and not self.mixed.sensitive:
            raise ConfigError(
                f"scheme.mixed.normal_bits={self.mixed.normal_bits} without scheme.mixed.sensitive: "
                f"name the sensitive layers, or use bits={self.mixed.normal_bits}"
            )
        if self.finetune.steps:
            self._check_finetune()

    def _check_finetune(self) -> None:
        if self.weights.is_float:
            raise ConfigError(
                f"scheme.finetune.steps={self.finetune.steps} with {self.weights.format} weights: only integer weights have "
                f"step sizes to learn; use scheme=qat, or scheme.finetune.steps=0"
            )
        if self.allocates:
            raise ConfigError(
                f"scheme.finetune.steps={self.finetune.steps} with scheme.mixed.candidates={self.mixed.candidates}: find the "
                f"bits with scheme=auto_mixed first, then give them to scheme=qat as scheme.mixed.bits={{layer:bits}}"
            )
        if convolutions := [name for name in self.layers.types if "Conv" in name]:
            raise ConfigError(
                f"scheme.finetune.steps={self.finetune.steps} with scheme.layers.types={self.layers.types}: quantized "
                f"{' and '.join(convolutions)} cannot be trained; use scheme.layers.types=[Linear,MultiheadAttention]"
            )

    def _check_methods(self) -> None:
        """Of rounding and transforms; only integer weights know all of them."""
        method, scale = self.rounding.method, self.transform.scale
        if self.weights.format != "int" and self.compensation.rank:
            raise ConfigError(
                f"scheme.compensation.rank={self.compensation.rank} with {self.weights.format} weights: a low-rank branch "
                f"makes up for integer rounding; use scheme.compensation.rank=0, or scheme=svdquant_w4a4"
            )
        if self.weights.format in FLOAT4 and method not in ("nearest", "mse"):
            raise ConfigError(
                f"scheme.rounding.method={method} with {self.weights.format} weights: only integer weights are rounded so; "
                f"use scheme.rounding.method=nearest or mse, or scheme=gptq_w4a16"
            )
        if self.weights.format in ("int", *FLOAT4):
            return
        if method != "nearest" or self.transforms:
            raise ConfigError(
                f"scheme.rounding.method={method} scheme.transform.scale={scale} with {self.weights.format} weights: "
                f"only integer weights are rounded that way; use scheme=gptq_w4a16 or scheme=awq"
            )

    def _check_budget(self) -> None:
        mixed = self.mixed
        if mixed.candidates and mixed.budget_mb is None and self.weights.bits not in mixed.candidates:
            raise ConfigError(
                f"bits={self.weights.bits} is not among scheme.mixed.candidates={mixed.candidates}: without budget_mb= the "
                f"budget is that of all layers at those bits; set budget_mb=, or bits= to a candidate"
            )
        if mixed.candidates and mixed.sensitivity == "exact" and self.activations.mode == "static":
            raise ConfigError(
                "scheme.mixed.sensitivity=exact with static activations: ranges are found when all layers are quantized; "
                "use jacobian"
            )

    @property
    def transforms(self) -> bool:
        """Whether weights are rounded in another basis."""
        return self.transform.scale != "none" or self.transform.hadamard or self.scales_channels

    @property
    def scales_rotated(self) -> bool:
        """Whether scales belong to inputs that have been rotated before."""
        scales = self.transform.scale != "none" or self.scales_channels
        return scales and self.transform.hadamard and self.transform.first == "hadamard"

    @property
    def scales_channels(self) -> bool:
        """Whether static activations have a scale per input channel, which is a basis of its own."""
        return self.activations.granularity == "per_channel"

    @property
    def needs_statistics(self) -> bool:
        """Whether weights are rounded by statistics of the inputs of their layers."""
        return (
            self.rounding.method == "gptq"
            or self.transform.scale in ("smooth", "balance", "awq")
            or self.scales_channels
        )

    @property
    def observes_inputs(self) -> bool:
        """Whether the recipe looks at the inputs of layers."""
        return self.needs_statistics or self.activations.mode == "static" or self.finetune.steps > 0

    @property
    def allocates(self) -> bool:
        """Whether bits per layer are still to be found."""
        return bool(self.mixed.candidates) and not self.mixed.bits

    @property
    def needs_calibration(self) -> bool:
        """Whether the model has to see samples before it is quantized."""
        return self.observes_inputs or self.allocates

    @property
    def label(self) -> str:
        """How tables call it, e.g. `INT4 group 64`."""
        return label_of(self)

    @property
    def family(self) -> str:
        """The same without bits, e.g. `INTn group 64`."""
        return family_of(self)
