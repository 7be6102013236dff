"""Compositions that are made once for all tests of a process.

Most of them choose the same options of the groups and differ in values. Hydra reads and merges the options, which takes a third
of a second, and sets values last; so what the options make is kept, and Hydra sets the values in a copy of it.
"""

import pickle
from contextlib import suppress
from functools import lru_cache
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from vggtq.config.compose import CONF

anew = hydra.compose


def kept(config_name: str, overrides: list[str], **others: Any) -> DictConfig:
    """As `hydra.compose`, which also has the last word on what it refuses."""
    with suppress(Exception):
        parsed = OverridesParser.create().parse_overrides(overrides)
        if not others and not any(_is_special(override) for override in parsed):
            chosen = tuple(override.input_line for override in parsed if _chooses(override))
            config: DictConfig = pickle.loads(_of_options(config_name, chosen))
            ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not _chooses(o)], config)
            return config
    return anew(config_name, overrides, **others)


def _is_special(override: Override) -> bool:
    """Whether it is about Hydra itself, such as where configurations lie, or about several compositions."""
    return override.key_or_group.startswith("hydra") or override.is_sweep_override()


def _chooses(override: Override) -> bool:
    """Whether it names an option of a group; otherwise it sets a value."""
    return (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


@lru_cache(maxsize=500)
def _of_options(config_name: str, overrides: tuple[str, ...]) -> bytes:
    return pickle.dumps(anew(config_name, list(overrides)))
