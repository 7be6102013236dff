"""The typed configuration of a run: the options that `conf/config.yaml` may set, and the checks of single
values.
"""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from vggtq.errors import ConfigError, MissingExtraError, check_choice
from vggtq.machine.device import Device
from vggtq.metrics.metric import ALIGNMENTS
from vggtq.metrics.point_options import Points
from vggtq.network.memory import Memory
from vggtq.quant.scheme.scheme import Scheme
from vggtq.terminal.options import option

# Keys of earlier versions, which records still have: what to use in their place.
REPLACED = dict.fromkeys(
    ("baseline_cache", "calibration_cache", "sensitivity_cache", "finetune_cache"),
    "cache=FOLDER keeps all caches in one folder, cache=null keeps none",
)
# Where things lie, and what is done about other runs, changes no number that a run measures: these keys are no part of the
# configuration's hash.
PLACES = ("cache", *REPLACED, "resume", "fail_fast", "tracker")

SELECTIONS = ("random", "diverse")
RESTS = ("float32", "float16", "bfloat16")
RESUME = ("true", "failed", "never")
TRACKERS = ("none", "trackio", "wandb", "mlflow", "tensorboard")  # packages and extras of the same names


@dataclass
class Timing:
    """off, or paired: `rounds` pairs of reference and quantized predictions after `warmup` pairs that do not count."""

    mode: str = "paired"
    warmup: int = 1
    rounds: int = 7
    references: list[str] = field(default_factory=lambda: ["fp32", "auto"])

    def __post_init__(self) -> None:
        check_choice("timing", self.mode, ("off", "paired"))
        if self.rounds < 1 or self.warmup < 0:
            raise ConfigError(
                f"timing.rounds={self.rounds} timing.warmup={self.warmup}: at least 1 round and 0 warm-ups"
            )
        for name in self.references:
            check_choice("timing.references", name, ("fp32", "bf16", "auto"))
        if self.mode == "paired" and not self.references:
            raise ConfigError("timing.references=[]: name fp32, bf16 or auto, or use timing=off")


@dataclass
class Tracker:
    """The tracker of a run's options and numbers besides the record. folder: for the tracker's own files."""

    name: str = "none"
    project: str = "vggtq"
    folder: str = "outputs/tracking"

    def __post_init__(self) -> None:
        check_choice("tracker", self.name, TRACKERS)
        if self.name != "none" and self.name not in sys.modules and find_spec(self.name) is None:
            raise MissingExtraError(
                f"tracker={self.name} needs a package that is not installed: pip install 'vggtq[{self.name}]'"
            )


ENGINES = {"torch": "", "onnxruntime": "onnx", "openvino": "openvino"}  # and the extras that bring them


@dataclass
class Engine:
    """The program that runs the quantized model: torch with our kernels, or the engine of an exported file, in
    a process of its own.
    """

    name: str = "torch"

    def __post_init__(self) -> None:
        check_choice("engine", self.name, ENGINES)
        extra = ENGINES[self.name]
        needed = (self.name, "onnx", "onnxscript") if extra else ()
        missing = [name for name in needed if name not in sys.modules and find_spec(name) is None]
        if missing:
            raise MissingExtraError(
                f"engine={self.name} needs {', '.join(missing)}, which are not installed: pip install 'vggtq[{extra}]'"
            )


@dataclass
class Calibration:
    """Images on which recipes look at the inputs of layers; never those that are evaluated.

    A sample is a sequence of `frames` images that the model sees together. selection: random, or diverse, which
    chooses the samples among `pool` candidates (null: four times as many) by their features in the model.
    dataset: where they come from; null: images of the evaluated data set's kind that are not evaluated.
    """

    name: str = "objects"
    samples: int = 16
    frames: int = 4
    seed: int = 0
    selection: str = "random"
    pool: int | None = None
    dataset: Any = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"calibration.samples={self.samples}: at least 1 is needed; 16 is usual")
        if self.frames < 1:
            raise ConfigError(f"calibration.frames={self.frames}: a sample has at least 1 image; 4 is usual")
        check_choice("calibration.selection", self.selection, SELECTIONS)
        if self.pool is not None and (self.selection == "random" or self.pool < self.samples):
            raise ConfigError(
                f"calibration.pool={self.pool} with calibration.selection={self.selection} calibration.samples={self.samples}: "
                f"candidates are for selection=diverse, at least as many as samples; use null for four times as many"
            )


@dataclass
class Config:
    """One run."""

    scheme: Scheme = field(default_factory=Scheme)
    model: Any = None
    dataset: Any = None
    device: Device = field(default_factory=Device)
    memory: Memory = field(default_factory=Memory)  # of the quantized model; the reference is not bounded
    engine: Engine = field(default_factory=Engine)
    timing: Timing = field(default_factory=Timing)
    calibration: Calibration = field(default_factory=Calibration)
    scene: str | None = option("short for dataset.scene, where scenes have names", None)
    scenes: int | None = option(
        "short for dataset.count; this and the next three where scenes are made to order", None
    )
    frames: int | None = option("short for dataset.frames", None)
    path: str | None = option(
        "how cameras move, where scenes are made to order; short for dataset.camera_path", None
    )
    size: list[int] | None = option("height and width, pixels; short for dataset.size", None)
    budget_mb: float | None = option("short for scheme.mixed.budget_mb, where bits are found", None)
    plugins: list[str] = option("modules of your own that add to the tables of vggtq, e.g. [my_methods]", [])
    seed: int = option("of random weights, scenes and everything else that is drawn", 0)
    depth_alignment: str = option(
        "how predicted depth is scaled before it meets ground truth", "median", choices=ALIGNMENTS
    )
    points_icp: bool = option("refine the alignment of point maps by ICP after Umeyama", False)
    points: Points = field(default_factory=Points)
    picture_frames: int = option("frames in the comparison picture; 0 draws none", 3)
    preview_scenes: int = option("scenes whose geometry the report page shows; 0 keeps none", 1)
    rest: str = option("what everything that is not quantized is stored in", "float32", choices=RESTS)
    save: bool = option("keep the quantized model, as model.safetensors beside the record", False)
    save_predictions: bool = option("keep the outputs of both models, for vggtq rescore", False)
    fresh_memory: bool = option("peak memory of each model, measured in a process of its own", True)
    cache: str | None = option(
        "folder of what later runs need not compute again; null keeps none", "outputs/cache"
    )
    tracker: Tracker = field(default_factory=Tracker)
    resume: str = option(
        "which runs that are measured already are not measured again", "true", choices=RESUME
    )
    fail_fast: bool = option("end a sweep after the first failure", False)

    def __post_init__(self) -> None:
        check_choice("depth_alignment", self.depth_alignment, ALIGNMENTS)
        check_choice("rest", self.rest, RESTS)
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed}: seeds lie between 0 and {2**32 - 1}")
        self.resume = resume_mode(self.resume)
        if self.picture_frames < 0:
            raise ConfigError(f"picture_frames={self.picture_frames}: use 0 for no picture, or more")
        if self.engine.name != "torch" and self.device.name == "cuda":
            raise ConfigError(
                f"device=cuda with engine={self.engine.name}: it is measured on the CPU; use device=cpu"
            )
        if self.preview_scenes < 0:
            raise ConfigError(f"preview_scenes={self.preview_scenes}: use 0 for no preview, or more")


def resume_mode(value: object) -> str:
    """One of RESUME. Raises ConfigError."""
    mode = str(value).lower()  # YAML's true arrives as True
    check_choice("resume", mode, RESUME, "; never measures everything again")
    return mode
