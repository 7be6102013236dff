"""A scheme is a recipe: which layers, which numbers for their weights, which for their activations.

The dataclasses are the schema of `conf/scheme/*.yaml` and the argument of `quantize_` alike. They import nothing heavy, so
that a configuration which cannot work is refused before torch is even loaded.
"""

from dataclasses import dataclass, field, replace

from vggtq.errors import ConfigError, check_choice
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.formats import FORMATS, as_yaml
from vggtq.quant.scheme.methods import Compensation, Rounding, Transform
from vggtq.quant.scheme.parts import Finetune, GlobalAttention, Layers, Mixed
from vggtq.quant.scheme.weights import Weights

# Types of scaled dot products, and how labels call them.
ATTENTIONS = {"float32": "", "float16": "FP16", "bfloat16": "BF16", "int8": "INT8"}
# Types of the parts that are not quantized: dense heads, and scaled dot products that `attention` leaves alone.
COMPUTES = ("auto", "float32", "bfloat16")


@dataclass
class Scheme:
    """A quantization scheme: layers, transform, rounding, the number formats of weights and activations, and fine-tuning.

    attention: the data type of the scaled dot products of queries, keys and values, in models that support the choice.
    float32 keeps the model's own; int8 needs the native CPU kernels (vggtq.network.native_attention). compute: the data type of
    the products in dense heads, of scaled dot products with attention=float32, and of layers with float inputs on AMX;
    auto: vggtq.quant.walk.computing.
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
    compute: str = "auto"
    global_attention: GlobalAttention = field(default_factory=GlobalAttention)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            part = type(self.name).__name__
            raise ConfigError(f"Scheme({part}…): give parts by name, as in Scheme({part.lower()}={part}(…))")
        check_choice("scheme.attention", self.attention, tuple(ATTENTIONS))
        check_choice("scheme.compute", self.compute, COMPUTES)
        self._check_methods()
        # Both sides of a product have one format; 16-bit weights are multiplied with float inputs.
        if self.activations.mode != "none" and self.activations.format != self.weights.format:
            raise ConfigError(
                f"scheme.activations.mode={self.activations.mode} scheme.activations.format={self.activations.format} with "
                f"{self.weights.format} weights: both need one format, as in scheme=int8_dynamic and scheme=fp8"
            )
        # The numbers of every layer have to be possible, not only the scheme's own.
        if self.weights.entry.integer:
            by_pattern = {self.mixed.sensitive_bits} if self.mixed.sensitive else set()
            normal = self.mixed.normal_bits or self.weights.bits
            for bits in {normal, *by_pattern, *self.mixed.candidates, *self.mixed.bits.values()}:
                replace(self.weights, bits=bits)
        elif self.mixed.given:
            raise ConfigError(
                f"scheme.mixed with {self.weights.format} weights: bits per layer need integer weights; "
                f"use scheme=mixed_precision or scheme=auto_mixed"
            )
        self._check_budget()
        if self.mixed.normal_bits is not None and not self.mixed.sensitive:
            raise ConfigError(
                f"scheme.mixed.normal_bits={self.mixed.normal_bits} without scheme.mixed.sensitive: "
                f"name the sensitive layers, or use bits={self.mixed.normal_bits}"
            )
        if self.finetune.steps:
            self._check_finetune()

    def _check_finetune(self) -> None:
        if not self.weights.entry.integer:
            raise ConfigError(
                f"scheme.finetune.steps={self.finetune.steps} with {self.weights.format} weights: only integer weights have "
                f"step sizes to learn; use scheme=qat, or scheme.finetune.steps=0"
            )
        if self.weights.progressive:
            raise ConfigError(
                f"scheme.finetune.steps={self.finetune.steps} with scheme.weights.scale_dtype=progressive: step sizes are "
                f"learned as floats; use scheme.weights.scale_dtype=float16, or scheme.finetune.steps=0"
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
        method, scale, entry = self.rounding.method, self.transform.scale, self.weights.entry
        weights = self.weights.format, self.weights.bits, self.weights.granularity, self.weights.symmetric
        if "torch" in (method, self.activations.kernel) and weights != ("int", 8, "per_tensor", True):
            raise ConfigError(
                f"scheme.rounding.method={method} scheme.activations.kernel={self.activations.kernel} with "
                f"{self.weights.format} weights, bits={self.weights.bits}, granularity={self.weights.granularity}: PyTorch's "
                "dynamic quantization has symmetric 8-bit weights per tensor; use scheme=torch_dynamic"
            )
        if not entry.integer and self.compensation.rank:
            raise ConfigError(
                f"scheme.compensation.rank={self.compensation.rank} with {self.weights.format} weights: a low-rank branch "
                f"makes up for integer rounding; use scheme.compensation.rank=0, or scheme=svdquant_w4a4"
            )
        if entry.roundings is not None and method not in entry.roundings:
            raise ConfigError(
                f"scheme.rounding.method={method} with {self.weights.format} weights: only integer weights are rounded so; "
                f"use scheme.rounding.method={' or '.join(entry.roundings)}, or scheme=gptq_w4a16"
            )
        if self.transforms and not entry.transforms:
            raise ConfigError(
                f"scheme.transform.scale={scale} scheme.transform.hadamard={as_yaml(self.transform.hadamard)} with "
                f"{self.weights.format} weights: only {', '.join(name for name, known in FORMATS.items() if known.transforms)} "
                f"weights are rounded in another basis; use scheme=gptq_w4a16 or scheme=awq"
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
        return self.transform.scale != "none" or self.transform.hadamard

    @property
    def scales_rotated(self) -> bool:
        """Whether scales belong to inputs that have been rotated before."""
        turned = self.transform.hadamard and self.transform.first == "hadamard"
        return turned and self.transform.scale != "none"

    @property
    def needs_statistics(self) -> bool:
        """Whether weights are rounded by statistics of the inputs of their layers."""
        return self.rounding.entry.needs_data or self.transform.entry.needs_data

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
        """The name of the scheme in tables, e.g. `INT4 group 64`."""
        return label_of(self, widths_of(self))

    @property
    def family(self) -> str:
        """The same without bits, e.g. `INTn group 64`: schemes of one family are points of one curve."""
        return label_of(self, "n")


# The name of a scheme in tables: numbers, granularity of scales, methods, e.g. `INT4 group 64 GPTQ`,
# `auto 3.9 bits group 64`.


def label_of(scheme: Scheme, widths: str) -> str:
    """The name of a scheme whose weights have `widths` bits."""
    attention = ATTENTIONS[scheme.attention]
    parts = (
        " ".join([_numbers(scheme, widths), *_recipe(scheme)]),
        scheme.activations.label,
        attention and f"attention {attention}",
        "rest BF16" if scheme.compute == "bfloat16" else "",
        scheme.global_attention.label,
    )
    return ", ".join(part for part in parts if part)


def widths_of(scheme: Scheme) -> str:
    """Bits of the weights; nothing before they are found."""
    mixed = scheme.mixed
    if mixed.candidates:
        return f"{mixed.mean_bits:.1f}" if mixed.mean_bits is not None else ""
    if mixed.bits:
        return "/".join(map(str, sorted(set(mixed.bits.values()))))
    if mixed.sensitive:
        return f"{mixed.normal_bits or scheme.weights.bits}/{mixed.sensitive_bits}"
    return str(scheme.weights.bits)


def _numbers(scheme: Scheme, widths: str) -> str:
    """Format and bits, first of all of weights."""
    weights, mixed, inputs = scheme.weights, scheme.mixed, scheme.activations
    entry = weights.entry
    if not entry.integer:
        blocks_of_inputs = entry.block and inputs.mode != "none"
        return f"{entry.label} W{weights.bits}A{inputs.bits}" if blocks_of_inputs else entry.label
    rounded = f"A{inputs.bits} {inputs.mode}" if inputs.mode != "none" else ""
    if mixed.candidates:
        return " ".join(part for part in ("auto", widths and f"{widths} bits", rounded) if part)
    kind = "mixed " if mixed.given else ""
    return f"{kind}W{widths}{rounded}" if rounded else f"{kind}{entry.label}{widths}"


def _recipe(scheme: Scheme) -> list[str]:
    """The part of the label about the granularity of scales, and the methods."""
    weights = scheme.weights
    granularity = "per-tensor" if weights.granularity == "per_tensor" else "per-channel"
    if not weights.entry.integer:
        whose = "weights" if scheme.activations.mode == "none" else "dynamic"
        shares = [whose, granularity] if weights.entry.scaled and not weights.entry.block else []
        return [*shares, *_methods(scheme)]
    parts = []
    if weights.granularity == "group":
        parts.append("whole-row groups" if weights.group_size is None else f"group {weights.group_size}")
        parts += ["progressive"] if weights.progressive else []
    else:
        parts.append(granularity)
    # Symmetric is the default of groups, asymmetric is worth saying; at 8 bits both are common, so both are said.
    if not weights.symmetric:
        parts.append("asymmetric")
    elif weights.granularity != "group":
        parts.append("symmetric")
    return [*parts, *_methods(scheme)]


def _methods(scheme: Scheme) -> list[str]:
    labels = [entry.label for entry in (scheme.transform.entry, scheme.rounding.entry) if entry.label]
    if scheme.transform.hadamard:
        labels.insert(0 if scheme.scales_rotated else len(labels), "Hadamard")
    labels += [f"rank {scheme.compensation.rank}"] if scheme.compensation.rank else []
    return [*labels, "QAT"] if scheme.finetune.steps else labels
