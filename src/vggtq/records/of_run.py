"""The record's entries on a run: what it read, what it cost, what it left. Comments are the text of docs/record.md."""

from dataclasses import dataclass, field
from typing import Any

from vggtq.machine.timing import PairedLatency
from vggtq.records.plain import OPTIONAL


@dataclass
class ErrorEntry:
    """Why a run failed."""

    type: str  # of the Python exception
    message: str  # in words for people
    expected: bool  # the message explains the failure completely
    traceback: str  # of Python, for finding a mistake in vggtq


@dataclass
class InputsEntry:
    """The files that the run read: weights, images, ground truth, calibration images. [Resuming](sweeps.md) compares them."""

    files: int  # how many
    bytes: int  # of all of them
    stat: str  # digest over names, sizes and times of change
    sha256: str  # digest over contents


@dataclass
class SourceImage:
    """One image as it lay on disk."""

    path: str  # relative to the data set's folder
    sha256: str  # of the file
    width: int  # pixels
    height: int  # pixels


@dataclass
class CamerasEntry:
    """Given cameras against the photographs. [How they are checked](data.md#cameras)."""

    convention: str | None  # in which they were read
    median_px: (
        float | None
    )  # median distance between matched points and their epipolar lines (Sampson), pixels; null: not checked
    longer_side: int | None  # of the images in which points were matched, pixels
    matches: int  # how many
    pairs: int  # of images
    skipped: str | None  # why they were not checked


@dataclass
class SceneEntry:
    """One scene that was predicted."""

    name: str  # as the data set calls it
    frames: int  # how many
    size: list[int]  # [H, W], pixels of the preprocessed frames
    images_sha256: str  # over the preprocessed images
    files: list[SourceImage]
    cameras: CamerasEntry | None  # null without given cameras, and for rendered scenes
    notes: list[str]  # what the loader decided: frames skipped, padded, …


@dataclass
class DatasetEntry:
    """The scenes that were predicted."""

    name: str  # as in `dataset=`
    scenes: list[SceneEntry]


@dataclass
class CachedScene:
    """Whether a scene's FP32 outputs came from the cache."""

    name: str  # of the scene
    cached: bool  # its outputs came from the cache


@dataclass
class BaselineEntry:
    """The origin of the FP32 outputs.

    The cache (the subfolder `baseline` of `cache`, null for none) knows outputs by weights, network code and settings, images,
    device, torch version, threads and instruction set; each entry carries its identity and a digest of its tensors, which are
    checked on reading. Its folder is a place and no part of `config_hash`.
    """

    cached: int  # scenes
    computed: int  # scenes
    untimed: str | None  # why there is no time of a prediction; else null
    scenes: list[CachedScene]


@dataclass
class Skipped:
    """A reference that was not timed."""

    skipped: str  # why


@dataclass
class LatencyEntry:
    """Paired latency on the first scene."""

    rounds: int  # pairs
    scene: str  # its name
    frames: int  # how many
    size: list[int]  # [H, W], pixels
    # `fp32` and `bf16`, or what was asked for; with another `engine` also `engine_float`, the float model in that engine
    references: dict[str, PairedLatency | Skipped]


@dataclass
class EngineEntry:
    """The engine that ran the quantized model, if it was not torch. Predictions, latency and memory are of this engine."""

    name: str  # as in `engine=`
    version: str  # of the engine
    file_bytes: int  # of the exported file, with the weights beside it
    threads: int  # that the engine said it used
    ran: dict[
        str, int
    ]  # matrix products and convolutions of one prediction, by what the engine computed them with
    arithmetic: str  # what products of quantized layers were computed with, read from `ran`
    float_precision: str  # of the float model that `latency.references.engine_float` is
    # by output: `error`, relative to our own prediction, and the `limit` above which the run fails (docs/deploy.md)
    parity: dict[str, dict[str, float]]
    # of float products of the quantized model: bfloat16 where scheme.compute asks for it and CPU and engine have it
    precision: str | None = field(default=None, metadata=OPTIONAL)


@dataclass
class PeakMemory:
    """Bytes and seconds of one model, in a process that loads its artifact, predicts once and does nothing else.

    The process is `python -m vggtq.run.peak_memory`. Values that the system does not report are null.
    """

    rss_before_load_bytes: int | None  # Python, torch and the images
    load_peak_rss_bytes: int | None  # highest resident memory while loading
    rss_loaded_bytes: int | None  # resident memory with the model loaded
    predict_peak_rss_bytes: int | None  # highest resident memory while predicting
    peak_rss_bytes: int  # the larger peak
    cuda_peak_bytes: int | None  # most that torch had allocated; null on a CPU
    load_seconds: float  # of loading the model
    predict_seconds: float  # the first prediction, cold
    # median of the predictions after the first; null if there is only one, as in a run
    warm_seconds: float | None
    # of `reference`: measured by an earlier run on this machine
    cached: bool | None = field(default=None, metadata=OPTIONAL)


@dataclass
class MemoryEntry:
    """Memory of both models on the first scene, each in a process of its own."""

    scene: str | None  # its name; null where nothing was measured, as are the next four
    frames: int | None  # how many
    size: list[int] | None  # [H, W], pixels
    quantized: PeakMemory | None  # null where nothing was measured, as with `fresh_memory=false`
    reference: PeakMemory | None  # the FP32 model's; null likewise
    reason: str | None  # why nothing was measured; else null
    # Numbers of schema version 1, taken in one process in which both models were alive; only in such records.
    both_alive: dict[str, Any] | None = field(default=None, metadata=OPTIONAL)


@dataclass
class ArtifactEntry:
    """The quantized model, as a file beside the record."""

    file: str  # its name
    file_bytes: int  # its size
    sha256: str  # the artifact's own digest


@dataclass
class PredictionsEntry:
    """The outputs of both models and the ground truth, which `python -m vggtq.rescore` reads, as a file beside the record."""

    file: str  # its name
    file_bytes: int  # its size
    dtype: str  # `float32`: 16-bit values would score differently
    scenes: int  # how many


@dataclass
class Code:
    """The version of vggtq that computed something; as in `environment`."""

    vggtq: str  # version
    commit: str | None  # of the checkout; else null
    dirty: bool | None  # there were changes beside it; null without a checkout
    code: str  # digest of the source


@dataclass
class RescoredEntry:
    """The program that scored the run again, and its settings."""

    when: str  # UTC, ISO 8601
    vggtq: str  # version, as in `environment`
    commit: str | None  # as in `environment`
    dirty: bool | None  # as in `environment`
    code: str  # as in `environment`
    changes: dict[str, Any]  # what it changed in the configuration
    earlier: Code  # the code of the run
    # as in `environment`
    plugins: list[dict[str, str]] | None = field(default=None, metadata={"optional": True})
