"""From a composed configuration to a typed and checked one. Imports nothing heavy.

Schemes, device and timing are typed here; `model` and `dataset` are dataclasses of their own, named by `_target_` in their
YAML, whose fields are their schema (`instantiate`).
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vggtq.config.compose import candidates, compose
from vggtq.config.messages import explain, first_line
from vggtq.config.names import config_hash, plain
from vggtq.config.schema import REPLACED, Config
from vggtq.errors import ConfigError, did_you_mean
from vggtq.plugins import load_plugins

# Keys at the top level that stand for a key of the data set, and a data set that has it.
SHORT_KEYS = {
    "scene": ("scene", "eth3d"),
    "scenes": ("count", "objects"),
    "frames": ("frames", "objects"),
    "path": ("camera_path", "objects"),
    "size": ("size", "objects"),
}


@dataclass
class Job:
    """The configuration of one run, in each of its forms, which are made once."""

    cfg: DictConfig

    @cached_property
    def values(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return plain(self.cfg)

    @cached_property
    def hash(self) -> str:
        """Same hash, same experiment."""
        return config_hash(self.values)

    @cached_property
    def config(self) -> Config:
        """Typed and checked. Raises ConfigError."""
        return validated(self.cfg)


def validated(cfg: DictConfig) -> Config:
    """The typed configuration, with model and dataset instantiated. Raises ConfigError; reads no model and no image.

    Plugins are imported first, since what they add is among what a configuration may name.
    """
    load_plugins(cfg.get("plugins") or ())
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
    _check_patches(config)
    if config.scheme.needs_calibration:
        config.calibration.dataset = _calibration_dataset(config, candidates(_root_=cfg))
    return config


def _check_patches(config: Config) -> None:
    """Raises ConfigError for images that the model cannot divide into patches."""
    patch = getattr(config.model, "patch_size", None)
    size = getattr(config.dataset, "size", None)
    if patch and size and any(side % patch for side in size):
        near = [max(1, round(side / patch)) * patch for side in size]
        raise ConfigError(
            f"dataset.size={size}: the patch size of model={config.model.name} is {patch}, and its multiples fit; try {near}"
        )
    own = getattr(config.dataset, "patch_size", patch)
    if patch and own != patch:
        raise ConfigError(
            f"dataset.patch_size={own}: that of model={config.model.name} is {patch}; leave it out, or use that"
        )


def _calibration_dataset(config: Config, count: int) -> Any:
    wanted, node = config.calibration, config.calibration.dataset
    if node is None:
        if not hasattr(config.dataset, "calibration"):
            raise ConfigError(
                f"calibration=dataset: dataset={config.dataset.name} has no images that are not evaluated; "
                f"use calibration=objects, or calibration=images calibration.dataset.path=DIR"
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
    """Raises ConfigError for keys that were added with + and that the schema does not have."""
    for key in map(str, cfg):
        if key == "hydra" or f"{prefix}{key}" in ("model", "dataset", "calibration.dataset"):
            continue  # these have schemas of their own
        if not prefix and key in REPLACED:
            raise ConfigError(f"{key} is no option any more: {REPLACED[key]}")
        if key not in schema:
            raise ConfigError(f"{prefix}{key} is not an option{did_you_mean(key, map(str, schema))}")
        if f"{prefix}{key}" == "scheme.mixed.bits":
            continue  # its keys are names of layers
        child, known = cfg._get_node(key), schema._get_node(key)
        # The keys of a plain mapping are names that only the run can check.
        if isinstance(child, DictConfig) and OmegaConf.get_type(known) not in (dict, type(None)):
            assert isinstance(known, DictConfig)
            _check_keys(child, known, f"{prefix}{key}.")


# Classes that have moved, by the names in older records and users' YAML files.
MOVED = {"vggtq.data.sequences.ImageSequences": "vggtq.data.images.ImageSequences"}


def instantiate(node: dict[str, Any], key: str) -> Any:
    """An instance of the dataclass that `_target_` names, its fields type-checked. Raises ConfigError."""
    values = dict(node)
    target = values.pop("_target_", None)
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{key}._target_={target}: name the class, e.g. vggtq.data.images.ImageFolder")
    module, _, name = MOVED.get(target, target).rpartition(".")
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


def composed(overrides: Sequence[str]) -> Config:
    """The configuration of a run with these overrides, for other commands. Raises ConfigError."""
    try:
        return validated(compose(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
