"""The configuration: its schema, where its YAML files are, and what Hydra needs help with. Imports nothing heavy.

Schemes, device and timing are typed here; `model` and `dataset` are dataclasses of their own, named by `_target_` in their
YAML, whose fields are their schema (`instantiate`).
"""

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vggtq.calibration_config import Calibration, candidates
from vggtq.errors import ConfigError, MissingExtraError, did_you_mean
from vggtq.quant.scheme import Scheme
from vggtq.source_code import PACKAGE

# In a wheel conf/ lies inside the package; in a checkout beside src/.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"

# Keys at the top level that stand for a key of the data set, and a data set that has it.
SHORT_KEYS = {
    "scene": ("scene", "eth3d"),
    "scenes": ("count", "rooms"),
    "frames": ("frames", "rooms"),
    "size": ("size", "rooms"),
}

# Where things lie, and what is done about other runs, changes no number that a run measures: these keys are no part of the
# configuration's hash.
CACHES = ("baseline_cache", "calibration_cache", "sensitivity_cache", "finetune_cache")
PLACES = (*CACHES, "resume", "fail_fast", "tracker")

RESUME = ("true", "failed", "never")
TRACKERS = ("none", "trackio", "wandb", "mlflow", "tensorboard")  # packages and extras of the same names

# Names the folder of the sweep that a process belongs to; empty outside of sweeps.
SWEEP_VARIABLE = "VGGTQ_SWEEP"

# Groups whose options look like numbers or null, which Hydra takes for values unless they are quoted.
NUMERIC_GROUPS = ("bits", "group_size")


@dataclass
class Device:
    """Where models run. auto: cuda where there is a CUDA GPU, else cpu. threads: CPU threads, null for torch's choice."""

    name: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"device={self.name} is not one of auto, cpu, cuda{did_you_mean(self.name, ('auto', 'cpu', 'cuda'))}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"device.threads={self.threads}: use at least 1, or null for torch's choice")


@dataclass
class Timing:
    """off, or paired: `rounds` pairs of reference and quantized predictions after `warmup` pairs that do not count."""

    mode: str = "paired"
    warmup: int = 1
    rounds: int = 7
    references: list[str] = field(default_factory=lambda: ["fp32", "auto"])

    def __post_init__(self) -> None:
        if self.mode not in ("off", "paired"):
            raise ConfigError(f"timing={self.mode} is not one of off, paired")
        if self.rounds < 1 or self.warmup < 0:
            raise ConfigError(
                f"timing.rounds={self.rounds} timing.warmup={self.warmup}: at least 1 round and 0 warm-ups"
            )
        for name in self.references:
            if name not in ("fp32", "bf16", "auto"):
                raise ConfigError(f"timing.references: {name} is not one of fp32, bf16, auto")
        if self.mode == "paired" and not self.references:
            raise ConfigError("timing.references=[]: name fp32, bf16 or auto, or use timing=off")


@dataclass
class Tracker:
    """Where a run's options and numbers go besides its record. folder: for whatever the tracker writes."""

    name: str = "none"
    project: str = "vggtq"
    folder: str = "outputs/tracking"

    def __post_init__(self) -> None:
        if self.name not in TRACKERS:
            near = did_you_mean(self.name, TRACKERS)
            raise ConfigError(f"tracker={self.name} is not one of {', '.join(TRACKERS)}{near}")
        if self.name != "none" and self.name not in sys.modules and find_spec(self.name) is None:
            raise MissingExtraError(
                f"tracker={self.name} needs a package that is not installed: pip install 'vggtq[{self.name}]'"
            )


@dataclass
class Config:
    """One run."""

    scheme: Scheme = field(default_factory=Scheme)
    model: Any = None
    dataset: Any = None
    device: Device = field(default_factory=Device)
    timing: Timing = field(default_factory=Timing)
    calibration: Calibration = field(default_factory=Calibration)
    scene: str | None = None  # short for dataset.scene, where scenes have names
    scenes: int | None = None  # short for dataset.count; this and the next two where scenes are made to order
    frames: int | None = None  # short for dataset.frames
    size: list[int] | None = None  # height and width, pixels; short for dataset.size
    budget_mb: float | None = None  # short for scheme.mixed.budget_mb, where bits are found
    seed: int = 0
    depth_alignment: str = "median"
    points_icp: bool = False
    picture_frames: int = 3
    preview_scenes: int = 1
    rest: str = "float32"
    save: bool = False
    save_predictions: bool = False
    fresh_memory: bool = True
    baseline_cache: str | None = (
        "outputs/cache/baseline"  # folder of FP32 outputs; null computes them in every run
    )
    sensitivity_cache: str | None = (
        "outputs/cache/sensitivity"  # folder of what layers' bits cost; null likewise
    )
    calibration_cache: str | None = None  # folder of what layers saw; null computes it in every run
    finetune_cache: str | None = "outputs/cache/finetune"  # folder of fine-tunings; null keeps none
    tracker: Tracker = field(default_factory=Tracker)
    resume: str = "true"
    fail_fast: bool = False

    def __post_init__(self) -> None:
        if self.depth_alignment not in ("median", "lstsq", "none"):
            raise ConfigError(f"depth_alignment={self.depth_alignment} is not one of median, lstsq, none")
        if self.rest not in ("float32", "float16", "bfloat16"):
            near = did_you_mean(self.rest, ("float32", "float16", "bfloat16"))
            raise ConfigError(f"rest={self.rest} is not one of float32, float16, bfloat16{near}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed}: seeds lie between 0 and {2**32 - 1}")
        self.resume = resume_mode(self.resume)
        if self.picture_frames < 0:
            raise ConfigError(f"picture_frames={self.picture_frames}: use 0 for no picture, or more")
        if self.preview_scenes < 0:
            raise ConfigError(f"preview_scenes={self.preview_scenes}: use 0 for no preview, or more")


def resume_mode(value: object) -> str:
    """One of RESUME. Raises ConfigError."""
    mode = str(value).lower()  # YAML's true arrives as True
    if mode not in RESUME:
        raise ConfigError(f"resume={mode} is not one of {', '.join(RESUME)}; never measures everything again")
    return mode


def register() -> None:
    """Makes the schema and the resolver of run names known to Hydra; may be called more than once."""
    os.environ.setdefault(SWEEP_VARIABLE, "")  # Hydra copies it to jobs and insists on finding it
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("candidates", candidates, replace=True)


def validated(cfg: DictConfig) -> Config:
    """The typed configuration, with model and dataset instantiated. Raises ConfigError; reads no model and no image."""
    _check_keys(cfg, OmegaConf.structured(Config))
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error
    assert isinstance(config, Config)
    for key, (field_name, dataset) in SHORT_KEYS.items():
        value = getattr(config, key)
        if value is not None and field_name not in config.dataset:
            named = "scenes" if key == "scene" else f"choice of {key}"
            raise ConfigError(
                f"{key}={value}: dataset={config.dataset.get('name')} has no {named}; use dataset={dataset}"
            )
    if config.budget_mb is not None and not config.scheme.mixed.candidates:
        raise ConfigError(
            f"budget_mb={config.budget_mb:g}: scheme={config.scheme.name} has no bits to choose; use scheme=auto_mixed"
        )
    config.model = instantiate(config.model, "model")
    config.dataset = instantiate(config.dataset, "dataset")
    if config.scheme.needs_calibration:
        config.calibration.dataset = _calibration_dataset(config, candidates(_root_=cfg))
    return config


def _calibration_dataset(config: Config, count: int) -> Any:
    wanted, node = config.calibration, config.calibration.dataset
    if node is None:
        if not hasattr(config.dataset, "calibration"):
            raise ConfigError(
                f"calibration=dataset: dataset={config.dataset.name} has no images that are not evaluated; "
                f"use calibration=rooms, or calibration=images calibration.dataset.path=DIR"
            )
        return config.dataset.calibration(count, wanted.frames, wanted.seed)
    try:
        return instantiate(node, "calibration.dataset")
    except ConfigError as error:
        # A data set names its options as those of the evaluated one.
        raise ConfigError(
            re.sub(r"(?<!calibration\.)\bdataset\.", "calibration.dataset.", str(error))
        ) from error


def _check_keys(cfg: DictConfig, schema: DictConfig, prefix: str = "") -> None:
    """Raises ConfigError for keys that were added with + and that nobody reads."""
    for key in map(str, cfg):
        if key == "hydra" or f"{prefix}{key}" in ("model", "dataset", "calibration.dataset"):
            continue  # these have schemas of their own
        if key not in schema:
            raise ConfigError(f"{prefix}{key} is not an option{did_you_mean(key, map(str, schema))}")
        if f"{prefix}{key}" == "scheme.mixed.bits":
            continue  # its keys are names of layers
        child, known = cfg._get_node(key), schema._get_node(key)
        # The keys of a plain mapping are names that only the run can check.
        if isinstance(child, DictConfig) and OmegaConf.get_type(known) not in (dict, type(None)):
            assert isinstance(known, DictConfig)
            _check_keys(child, known, f"{prefix}{key}.")


def instantiate(node: dict[str, Any], key: str) -> Any:
    """An instance of the dataclass that `_target_` names, its fields type-checked. Raises ConfigError."""
    values = dict(node)
    target = values.pop("_target_", None)
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{key}._target_={target}: name the class, e.g. vggtq.data.images.ImageFolder")
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}._target_={target} cannot be imported: {error}") from error
    if not is_dataclass(cls):
        raise ConfigError(f"{key}._target_={target} is not a dataclass, so its options cannot be checked")
    schema = OmegaConf.structured(cls)
    for unknown in (k for k in values if k not in schema):
        raise ConfigError(f"{key}.{unknown} is not an option of {name}{did_you_mean(unknown, list(schema))}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}") from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values, without Hydra's own part. Missing values become '???'."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    resolved = OmegaConf.to_container(own, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def config_hash(config: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the configuration in canonical JSON: same hash, same experiment.

    Without PLACES.
    """
    experiment = {key: value for key, value in config.items() if key not in PLACES}
    return hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()[:12]


def run_name(*, _root_: DictConfig) -> str:
    """Folder name for people, made unique by the hash: int4_group-w4-g64-motorcycle-vggt_small-1a2b3c4d."""
    config = plain(_root_)
    weights = config["scheme"]["weights"]
    short = {"per_tensor": "tensor", "per_channel": "channel"}.get(weights["granularity"])
    grouping = short or (f"g{weights['group_size']}" if weights["group_size"] else None)
    budget = config["scheme"]["mixed"]["budget_mb"]
    parts = [
        config["scheme"]["name"],
        f"w{weights['bits']}" if budget is None else f"{budget:g}mib",
        grouping,
        _name(config, "dataset"),
        config["scene"],
        _name(config, "model"),
    ]
    readable = "-".join(str(part) for part in parts if part)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in readable)
    return f"{safe[:100]}-{config_hash(config)[:8]}"


def _name(config: dict[str, Any], key: str) -> str:
    return str((config[key] or {}).get("name", key))


def quote_numbers(argv: Sequence[str]) -> list[str]:
    """`group_size=64` → `group_size='64'`, in sweeps too: Hydra 1.3 refuses numbers as options of a group.

    Sweeps written as lists, choice(…) or range(…) become lists of quoted options. Values that Hydra cannot read, such as paths
    with spaces, are quoted too. Other arguments pass unchanged.
    """
    return [_quoted(argument) for argument in argv]


def _quoted(argument: str) -> str:
    key, is_override, value = argument.partition("=")
    if not is_override or argument.startswith("-"):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return _quoted_text(key, value) or argument  # what cannot be mended, Hydra reports itself
    if key.lstrip("+") not in NUMERIC_GROUPS or isinstance(override.value(), Glob | IntervalSweep):
        return argument  # (what a glob stands for is known to Hydra alone)
    swept = override.is_sweep_override()
    values = list(override.sweep_iterator(_as_text)) if swept else [_as_text(override.value())]
    return f"{key}=" + ",".join(f"'{value}'" for value in values)


def _quoted_text(key: str, value: str) -> str | None:
    """A path with spaces or other signs that Hydra's grammar lacks, as a quoted string; None for anything structured."""
    if not value.strip() or value.lstrip()[0] in "[{('\"" or value.rstrip().endswith(","):
        return None
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    candidate = f"{key}='{escaped}'"
    try:
        OverridesParser.create().parse_override(candidate)
    except HydraException:
        return None
    return candidate


def _as_text(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else "null" if value is None else str(value)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed configuration, spelled as on the command line: compose(["scheme=int4_group", "group_size=64"])."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=quote_numbers(overrides))


def options(group: str) -> list[str]:
    """The YAML files of a group, e.g. options("group_size")."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def first_line(error: BaseException) -> str:
    """The first line of a library's message, and the key that OmegaConf names below it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    key = next((line.strip().removeprefix("full_key: ") for line in lines if "full_key:" in line), None)
    return f"{key}: {lines[0]}" if key else lines[0]
