"""Mistakes in a configuration, told in one line that names value, rule and remedy."""

import re
from pathlib import Path
from typing import TypeVar

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vggtq.config.compose import ADDED, CONF, GROUPS, compose, options
from vggtq.config.schema import REPLACED
from vggtq.errors import ConfigError, VggtqError, did_you_mean
from vggtq.machine.device import NO_MPS
from vggtq.machine.exhausted import exhausted
from vggtq.terminal.synonyms import meant

Table = TypeVar("Table")


def first_line(error: BaseException) -> str:
    """The first line of a library's message, and the key that OmegaConf names below it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    key = next((line.strip().removeprefix("full_key: ") for line in lines if "full_key:" in line), None)
    return f"{key}: {lines[0]}" if key else lines[0]


def read_table(path: Path, kind: type[Table]) -> Table:
    """A YAML file as the dataclass that it is written for. Raises ConfigError, which names the file and the key."""
    try:
        table = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path.name}: {first_line(error)}") from error
    assert isinstance(table, kind)
    return table


# Options that Hydra's plugins bring along.
EXTRAS = {
    ("hydra/launcher", "joblib"): "joblib",
    ("hydra/launcher", "submitit_local"): "slurm",
    ("hydra/launcher", "submitit_slurm"): "slurm",
    ("hydra/launcher", "ray"): "ray",
}


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages in one line that names value, rule and remedy."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, VggtqError):
        return first_line(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException | ConnectionError):
        if no_room := exhausted(error, None):
            return str(no_room)
        where = error.filename or "the output folder"
        return f"{where}: {error.strerror or error}; choose a folder that can be written, hydra.run.dir=DIR"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; lists are key=[a,b], sweeps key=a,b, special signs go in quotes: \"key='…'\""
    if "is not a ListConfig" in text and (given := re.search(r"override (\S+?)=(.+?)(?:;|\n|$)", text)):
        return f"{given[1]}={given[2]}: a list stands in brackets, {given[1]}=[{given[2]}]"
    if "Config group override must be a string" in text:
        return "a group is set to a number or to null; name one of its options, vggtq run --help lists them"
    if missing := re.search(r"Could not find '([\w/]+)/([^'/]*)'", text):
        return _explain_option(*missing.groups())
    if unknown := re.search(
        r"Could not override '([^']+)'|Key '([^']+)' is not in struct|Key '([^']+)' not in", text
    ):
        full = re.search(r"full_key: (\S+)", text)
        return _explain_key(full.group(1) if full else next(filter(None, unknown.groups())))
    noise = ("object_type", "reference_type", "full_key")
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)
    ]
    return "; ".join(dict.fromkeys(lines))


def _explain_option(group: str, value: str) -> str:
    if extra := EXTRAS.get((group, value)):
        return f"{group}={value} needs a package that is not installed: pip install 'vggtq[{extra}]'"
    choices = options(group)
    if group == "bits":
        return f"bits={value}: integer weights have 2 to 8 or 16 bits; schemes of float weights set their own"
    if (group, value) == ("device", "mps"):
        return f"device=mps: {NO_MPS}"
    choices += [name for known, name in EXTRAS if known == group]
    line = f"{group}={value} is not one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if group == "group_size" and value.isdigit() and int(value) > 1:
        return f"{line}; any other size: scheme.weights.group_size={value} with granularity=group, as scheme=int4_group has it"
    if group == "group_size" and value.lstrip("-").isdigit():
        return f"{line}; a group has at least 2 weights, group_size=null gives one scale per row"
    return line


def _explain_key(key: str) -> str:
    if key in ADDED:
        return f"{key}=… is added with a plus: +{key}={options(key)[0]}; choices: {', '.join(options(key))}"
    if key.startswith("model.architecture."):
        return f"{key} is not among what this model's YAML sets, so it is added with a plus: +{key}…"
    if key in REPLACED:
        return f"{key} is no option any more: {REPLACED[key]}"
    if key.startswith("hydra.launcher."):
        return f"{key} is no option of this launcher; name the one that has it: hydra/launcher=joblib, slurm or ray"
    if homes := _homes(key):
        group = key.partition(".")[0]
        others = ", or another of them" if len(homes) > 1 else ""
        return f"{key} is an option of {group}={', '.join(homes)}; add {group}={homes[0]}{others}"
    return f"{key} is not an option{meant(key, known_keys()) or '; vggtq run --help lists them'}"


def known_keys() -> list[str]:
    """Groups, keys of the default configuration and of every data set and model, and those keys of Hydra's that users need."""
    of_groups = [
        key for group in ("dataset", "model") for keys in _keys_by_option(group).values() for key in keys
    ]
    return list(dict.fromkeys([*GROUPS, *keys_of(compose()), *of_groups, "hydra.run.dir", "hydra.verbose"]))


def _homes(key: str) -> list[str]:
    """The options of a group that have a key which the chosen one lacks: images for dataset.path."""
    return [name for name, keys in _keys_by_option(key.partition(".")[0]).items() if key in keys]


def _keys_by_option(group: str) -> dict[str, list[str]]:
    """Per YAML file of a group the keys that it sets; files of the package _global_ name the group themselves."""
    found = {}
    for name in options(group):
        path = CONF / group / f"{name}.yaml"
        if path.exists() and isinstance(node := OmegaConf.load(path), DictConfig):
            keys = keys_of(node.get(group, node), f"{group}.")
            found[name] = [key for key in keys if not key.startswith((f"{group}.defaults", f"{group}._"))]
    return found


def keys_of(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name in map(str, node):
        keys.append(f"{prefix}{name}")
        if isinstance(child := node._get_node(name), DictConfig) and not child._is_none():
            keys += keys_of(child, f"{prefix}{name}.")
    return keys
