"""The parts of a scheme: the layers that it quantizes, their bits where they differ, and the fine-tuning.
Imports nothing heavy.
"""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError, check_choice
from vggtq.quant.scheme.formats import INT_BITS

LAYER_TYPES = ("Linear", "MultiheadAttention", "Conv2d", "ConvTranspose2d")
SENSITIVITIES = ("jacobian", "exact")
RATES = ("learning_rate", "step_learning_rate", "branch_learning_rate", "rest_learning_rate")


@dataclass
class Layers:
    """The layers that are quantized: fnmatch patterns on full dotted names, and module types.

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


def check_int_bits(key: str, bits: int) -> None:
    """Raises ConfigError unless `bits` is a width that can be packed."""
    if bits not in INT_BITS:
        raise ConfigError(f"{key}={bits}: integer weights have 2 to 8 or 16 bits; try bits=4 or bits=8")


@dataclass
class Mixed:
    """Mixed precision: by patterns, by name, or found (`vggtq.quant.bits.allocate`).

    Layers that match a `sensitive` pattern get sensitive_bits, all others normal_bits. `bits` names layers with the bits of
    each. With `candidates` the bits are found before the model is quantized: those that cost its outputs least within
    `budget_mb`; they then stand in `bits`, with their mean over the weights in `mean_bits`.
    """

    sensitive: list[str] = field(default_factory=list)
    sensitive_bits: int = 8
    normal_bits: int | None = None  # None: the bits of scheme.weights
    candidates: list[int] = field(default_factory=list)
    # MiB, the whole stored model; None: the size with the bits of scheme.weights
    budget_mb: float | None = None
    sensitivity: str = "jacobian"  # how the effect of a layer is measured (`vggtq.quant.bits.sensitivity`)
    bits: dict[str, int] = field(default_factory=dict)
    mean_bits: float | None = None

    def __post_init__(self) -> None:
        check_int_bits("scheme.mixed.sensitive_bits", self.sensitive_bits)
        if self.normal_bits is not None:
            check_int_bits("scheme.mixed.normal_bits", self.normal_bits)
        for key, widths in (("candidates", self.candidates), ("bits", self.bits.values())):
            for bits in widths:
                check_int_bits(f"scheme.mixed.{key}", bits)
        check_choice("scheme.mixed.sensitivity", self.sensitivity, SENSITIVITIES)
        if len(set(self.candidates)) != len(self.candidates):
            raise ConfigError(f"scheme.mixed.candidates={self.candidates}: name each width once")
        if self.budget_mb is not None and not self.budget_mb > 0:
            raise ConfigError(
                f"budget_mb={self.budget_mb:g}: a model takes more than 0 MiB; try half of what it has in FP16"
            )
        if self.budget_mb is not None and not self.candidates:
            raise ConfigError(
                f"budget_mb={self.budget_mb:g} without scheme.mixed.candidates: there are no bits to choose from; "
                f"use scheme=auto_mixed"
            )
        if self.sensitive and (self.candidates or self.bits):
            raise ConfigError(
                f"scheme.mixed.sensitive={self.sensitive} beside scheme.mixed.{'candidates' if self.candidates else 'bits'}: "
                f"bits are given by patterns or found, not both; leave one out"
            )

    @property
    def given(self) -> bool:
        """Whether layers differ in bits, or will."""
        return bool(self.sensitive or self.candidates or self.bits)


@dataclass
class Finetune:
    """Fine-tuning of the rounded network to reproduce the outputs of the float network; steps=0: no fine-tuning.

    The learning rates are for Adam, whose steps are about as long as the rate. Their units: for weights the mean step size of
    the layer; for step sizes a relative change; for low-rank branches, biases, gains and tokens the size of the tensor. A rate
    of 0 freezes its part; learning_rate=0 needs a fifth of the memory. The rates rise for 20 steps and then fall by half a
    cosine (`vggtq.quant.finetune.trainer`).

    validation: held-out share of the calibration samples, by which the kept weights are chosen. patience: evaluations without
    an improvement after which the training ends. minutes: a limit of the time; if it comes before the last step, the rates
    fall with the clock.
    """

    steps: int = 0
    batch: int = 4  # samples per step
    learning_rate: float = 5e-4
    step_learning_rate: float = 5e-5
    branch_learning_rate: float = 5e-4
    rest_learning_rate: float = 5e-5
    validation: float = 0.2
    evaluate_every: int = 50  # steps
    patience: int = 4
    minutes: float = 12.0

    def __post_init__(self) -> None:
        self._check("steps", self.steps >= 0, "use 0 or more")
        for key in ("batch", "evaluate_every", "patience"):
            self._check(key, getattr(self, key) >= 1, "use at least 1")
        self._check("minutes", self.minutes > 0, "use a positive number")
        for key in RATES:
            self._check(key, getattr(self, key) >= 0, "use 0 or more")
        if not any(getattr(self, rate) for rate in RATES):
            raise ConfigError(
                f"scheme.finetune: {', '.join(RATES)} are all 0, so that nothing learns; raise one"
            )
        self._check("validation", 0 < self.validation < 1, "use a share between 0 and 1; 0.2 is usual")

    def _check(self, key: str, right: bool, remedy: str) -> None:
        if not right:
            raise ConfigError(f"scheme.finetune.{key}={getattr(self, key)}: {remedy}")


@dataclass
class GlobalAttention:
    """Less attention between frames, without training (AVGGT, arXiv 2512.02541).

    frame_blocks: so many global blocks, from the first, see one frame each. key_stride: the others see every special token, but
    of the patches only those of every so-manieth row and column.
    """

    frame_blocks: int = 0
    key_stride: int = 1

    def __post_init__(self) -> None:
        if self.frame_blocks < 0:
            raise ConfigError(f"scheme.global_attention.frame_blocks={self.frame_blocks}: use 0 or more")
        if self.key_stride < 1:
            raise ConfigError(f"scheme.global_attention.key_stride={self.key_stride}: use 1 for all, or more")

    @property
    def label(self) -> str:
        """For tables, e.g. `6 global blocks local, keys 1/4`; empty where nothing is left out."""
        parts = [f"{self.frame_blocks} global blocks local"] if self.frame_blocks else []
        return ", ".join([*parts, *[f"keys 1/{self.key_stride**2}"] * (self.key_stride > 1)])
