"""The record's entries on the model and what became of it. Comments are the text of docs/record.md."""

from dataclasses import dataclass, field

from vggtq.records.plain import OPTIONAL


@dataclass
class ActivationsEntry:
    """The numbers that inputs of quantized layers are rounded to."""

    mode: str  # `none`: they stay in float; `dynamic`: scales are found at run time; `static`: found on calibration data
    # What shares a scale: `per_token`, `per_tensor`, `per_block` of `mxfp4` and `nvfp4`, or `per_channel`: inputs are divided
    # per channel first. Null for mode `none`.
    granularity: str | None
    symmetric: bool | None  # without zero point; null for mode `none`
    observer: str | None  # how static ranges were found: `minmax` or `mse`; else null


@dataclass
class SchemeEntry:
    """The recipe, as tables name it; `config` has all of it."""

    name: str  # as in `scheme=`
    label: str  # for tables, e.g. `INT4 group 64`
    family: str  # the label without bits: runs of one family are one curve
    format: str  # of the weights' numbers: `int`, `float8_e4m3`, `mxfp4`, `nvfp4`, `float32`, `float16` or `bfloat16`
    bits: int | None  # of a weight's code; null where bits were found layer by layer
    symmetric: bool  # weights have no zero point
    # what shares a scale: `per_tensor`, `per_channel`, `group`, or `none` where there is none
    granularity: str
    group_size: int | None  # weights that share a scale, where `granularity` is `group`; else null
    scale_dtype: str  # of the stored scales
    mean_bits: float | None  # mean over the weights, where bits were found layer by layer; else null
    activation_bits: int | None  # null: float activations
    # dtype of scaled dot products; `float32`: that of the model, `int8`: products of 8-bit codes
    attention: str
    activations: ActivationsEntry


@dataclass
class ModelEntry:
    """The model that was quantized."""

    name: str  # as in `model=`
    weights: str  # `random`, or the kind of their source
    source: str  # repository, file or folder name, never a machine's own path
    revision: str | None  # of a repository, as asked for; else null
    commit: str | None  # of a repository, as resolved; else null
    fingerprint: str  # SHA-256 over names and values of all weights
    licence: str | None  # of the weights; null where it is not known
    parameters: int  # how many numbers its weights are


@dataclass
class LayerEntry:
    """One quantized layer. Bytes include its bias."""

    name: str  # dotted, as in the network
    type: str  # `Linear`, `MultiheadAttention`, …
    shape: list[int]  # of the weight
    activation_bits: int | None  # null: float activations
    backend: str  # the kernel that computes it
    # `backend` dequantizes, then multiplies in float: its speed is not that of the scheme
    simulated: bool
    stored_bytes: int  # in a checkpoint
    resident_bytes: int  # as held in memory
    float32_bytes: int  # of the layer in float
    # dB, signal over what rounding changed in the weight; null with `exact: true` where nothing was lost. After fine-tuning
    # codes are compared with the trained weight behind them, not with FP32's.
    weight_sqnr_db: float | None
    notes: list[str]  # what was decided about this layer
    rotation: int  # width of the Hadamard blocks that inputs go through; 0 for none
    merged: int  # width of those of them that the rows of attention's values have taken over; 0 for none
    rotation_first: bool  # scales come behind the rotation
    # Largest calibration input among camera, class and register tokens over that among patch tokens; null where a layer sees
    # one kind, or was not calibrated.
    special_ratio: float | None
    rank: int  # of the branch in half precision beside it; 0 for none
    rule: str  # why this backend, where another one computes the same numbers on this machine; else empty
    # [low, high] of static activations, behind the layer's transform; else null
    input_range: list[float] | None
    format: str  # of the weight, as in `scheme`
    bits: int  # of a weight's code
    symmetric: bool  # as in `scheme`
    granularity: str  # as in `scheme`
    group_size: int | None  # as in `scheme`
    scale_dtype: str  # as in `scheme`
    exact: bool  # nothing was lost in rounding the weight


@dataclass
class KeptEntry:
    """A layer that stays in float."""

    name: str  # dotted, as in the network
    reason: str  # why


@dataclass
class SizeEntry:
    """Bytes of the whole model."""

    stored_bytes: int  # every tensor that a checkpoint has to keep: codes, scales, zero points, the rest
    resident_bytes: int  # as held in memory
    float32_bytes: int  # of the same model in FP32
    float16_bytes: int  # of the same model in FP16
    compression_vs_fp32: float  # `float32_bytes` over `stored_bytes`
    compression_vs_fp16: float  # `float16_bytes` over `stored_bytes`
    bits_per_weight: float  # stored bits over parameters
    quantized_layers: int  # how many
    quantized_parameters: int  # parameters in them
    parameters: int  # of the whole model


@dataclass
class CalibrationEntry:
    """The samples that the model saw before it was quantized, and the time this took; see [calibration](calibration.md)."""

    name: str  # as in `calibration=`
    selection: str  # `random` or `diverse`
    candidates: int  # how many samples there were to choose from
    outliers: list[str]  # names of the candidates that `diverse` left out first
    scenes: int  # how many samples were chosen
    frames: int  # of all of them together
    samples: list[str]  # their names
    sha256: str  # over all images, in order
    passes: int  # of the whole model; 0: block by block. Static activations need one
    groups: int  # of layers that were observed together
    seconds: float  # of running the model
    # groups that came from the cache
    cached: int | None = field(default=None, metadata=OPTIONAL)
    computed: int | None = field(default=None, metadata=OPTIONAL)  # groups that did not


@dataclass
class SolverEntry:
    """The quality of the solution."""

    status: str  # `optimal`, or why not
    gap: float  # how far from the best the solution may be, relative


@dataclass
class SensitivityEntry:
    """The error of the outputs when one layer alone is rounded, on the calibration samples."""

    method: str  # `jacobian` or `exact`
    cached: bool  # an earlier run had measured it
    bits: list[int]  # the widths, W
    layers: list[str]  # U of them; what has to have the same bits is joined by ` + `
    relative_error: list[list[float]]  # (U, W), root of the mean square over outputs


@dataclass
class AllocationEntry:
    """Bits that were found layer by layer; see [sensitivity](sensitivity.md). `layers` has the bits themselves."""

    budget_bytes: int  # of the whole model, as are the next three sizes
    budget_from: str  # `budget_mb`, or the uniform bits that it was taken from
    stored_bytes: int  # what was chosen
    smallest_bytes: int  # what the narrowest candidates would take
    largest_bytes: int  # what the widest candidates would take
    mean_bits: float  # mean over the weights
    solver: SolverEntry
    # relative error of each output on the calibration samples, if errors of layers add
    predicted: dict[str, float]
    predicted_mean_relative_error: float  # mean of `predicted`
    sensitivity: SensitivityEntry


@dataclass
class FinetuneEntry:
    """The fine-tuning of the quantized model; see [fine-tuning](qat.md)."""

    step: int  # steps done
    seconds: float  # over all sittings
    losses: list[float]  # one per step
    # [step, error] of the averaged weights on the validation part; step 0 is rounding after training
    errors: list[list[float]]
    best_step: int  # the step whose weights were kept
    best_error: float  # their error on the validation part
    ended: str  # why
    resumed: int  # how often it was taken up from a checkpoint
    planned_steps: int  # steps asked for
    scenes: int  # that were trained on
    validation_scenes: int  # that the error was measured on
    cached: bool  # all of it was done by an earlier run
