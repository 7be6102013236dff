"""The record of a run as dataclasses; on disk it is `result.json`. docs/record.md is made from their comments.

A type without `None` holds for every record of a run that went well. What an older or a damaged file lacks reads as None all
the same (`vggtq.records.plain`), so a reader of such files has to check.
"""

from dataclasses import dataclass, field
from typing import Any

from vggtq.machine.environment import Environment
from vggtq.metrics.results import Fidelity, Geometry, SceneErrors
from vggtq.records.of_model import (
    AllocationEntry,
    CalibrationEntry,
    FinetuneEntry,
    KeptEntry,
    LayerEntry,
    ModelEntry,
    SchemeEntry,
    SizeEntry,
)
from vggtq.records.of_run import (
    ArtifactEntry,
    BaselineEntry,
    DatasetEntry,
    EngineEntry,
    ErrorEntry,
    InputsEntry,
    LatencyEntry,
    MemoryEntry,
    PredictionsEntry,
    RescoredEntry,
)

SCHEMA_VERSION = 2
FILE_NAME = "result.json"
PREVIOUS_NAME = "result.previous.json"


@dataclass(kw_only=True)
class Record:
    """Every run leaves one `result.json` in its folder, also a run that failed.

    Tables and charts take every number from these files; folder names carry no data. The format is strict JSON: undefined
    numbers are `null`, never `NaN` or `Infinity`. A PSNR of ∞ (identical outputs) is `null` with `"identical": true` beside it.

    When a run fails where an earlier one succeeded, the earlier record stays as `result.previous.json`, which reports do not
    read. A rescoring keeps the record that it replaces in the same way. A failed record has the results up to the failure, and
    `null` for everything else.
    """

    # Readers take older records in the present form (`vggtq.records.migrations`): under version 1 `memory` also had a form for
    # both models in one process, which now is `memory.both_alive`. Keys that a version did not have yet are read as null.
    schema_version: int = SCHEMA_VERSION
    status: str = "failed"  # `ok` or `failed`
    error: ErrorEntry | None = None  # null unless the run failed
    name: str  # readable name of the run
    command: str  # repeats the run
    sweep: str | None = None  # an id that the runs of one sweep share; else null
    started: str  # UTC, ISO 8601
    # Seconds spent per step, where it was taken: `load`, `allocate` (sensitivities and solver, where bits are found),
    # `quantize`, `predict_reference` (null where all FP32 outputs came from the cache), `predict_quantized`, `memory`,
    # `timing`, `total`.
    seconds: dict[str, float | None] = field(default_factory=dict)
    config: dict[str, Any] | None = None  # the resolved configuration
    # First 12 hex digits of its SHA-256: same hash, same experiment. `cache`, `resume`, `fail_fast` and `tracker` change no
    # number and are no part of it; nor are `memory` and `scheme.global_attention` where they have their defaults.
    config_hash: str | None = None
    environment: Environment | None = None
    inputs: InputsEntry | None = None  # null where a model or data set does not tell what it reads
    scheme: SchemeEntry | None = None
    model: ModelEntry | None = None
    dataset: DatasetEntry | None = None
    baseline: BaselineEntry | None = None
    layers: list[LayerEntry] | None = None  # one for each quantized layer
    # Names of the norms and MLPs that round their outputs in the same kernel (W8A8 and FP8 on Triton's kernels for CUDA), of
    # the blocks whose norms, GELU, LayerScale and residual run within native products, and of the dense heads' residual units
    # whose ReLU and sum run within native convolutions (CPU); else empty.
    fused: list[str] | None = None
    kept: list[KeptEntry] | None = None
    # for statistics of inputs, static ranges and sensitivities; else null
    calibration: CalibrationEntry | None = None
    finetune: FinetuneEntry | None = None  # for schemes that are fine-tuned; else null
    allocation: AllocationEntry | None = None  # where bits were found; else null
    # Dtype of what is not quantized, dense heads first of all, as it was chosen for this CPU: `float32` or `bfloat16`.
    compute: str | None = None
    backends: dict[str, int] | None = None  # layers per backend
    # Some layer ran on the `reference` backend, which dequantizes the weight and multiplies in float. The latency is then not
    # that of the scheme.
    simulated: bool | None = None
    engine: EngineEntry | None = field(
        default=None, metadata={"optional": True}
    )  # absent where torch ran the model
    fidelity: Fidelity | None = None
    # for each scene, so that intervals over scenes can be derived
    fidelity_scenes: list[SceneErrors] | None = None
    geometry: Geometry | None = None  # null where the data has no ground truth
    # For each metric from a plugin, its properties that reports need: `key`, `scope`, `meaning`, `direction` (1: higher is
    # better, -1: lower), `label` (English, Chinese), `unit`, `decimals`, `outputs`, `shown` and so on; absent without any.
    metrics: list[dict[str, Any]] | None = field(default=None, metadata={"optional": True})
    size: SizeEntry | None = None
    latency: LatencyEntry | None = None  # null with `timing=off`
    memory: MemoryEntry | None = None
    picture: str | None = None  # file name of the comparison picture beside the record
    # File name of what the report page shows of the first scenes' geometry, beside the record (`preview_scenes`); else null.
    preview: str | None = None
    artifact: ArtifactEntry | None = None  # with `save=true`; else null
    predictions: PredictionsEntry | None = None  # with `save_predictions=true`; else null
    rescored: RescoredEntry | None = None  # of a record that `python -m vggtq.rescore` has written; else null
    # decisions that vggtq made for the user, one sentence each
    notes: list[str] = field(default_factory=list)


KEYS = tuple(Record.__dataclass_fields__)
