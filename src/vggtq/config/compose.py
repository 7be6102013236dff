"""Composes the YAML groups below `conf/` and overrides into one configuration."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vggtq.config.names import run_name
from vggtq.config.schema import Config
from vggtq.errors import ConfigError
from vggtq.machine.source_code import PACKAGE

# In a wheel conf/ lies inside the package; in a checkout beside src/.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"

# Names the folder of the sweep that a process belongs to; empty outside of sweeps.
SWEEP_VARIABLE = "VGGTQ_SWEEP"

# Groups as the help lists them; the last ones are added to a configuration with a plus.
GROUPS = (
    "scheme",
    "bits",
    "granularity",
    "group_size",
    "model",
    "dataset",
    "calibration",
    "device",
    "engine",
    "timing",
    "tracker",
)
ADDED = ("experiment", "variant", "search")

# Groups whose options look like numbers or null, which Hydra takes for values unless they are quoted.
NUMERIC_GROUPS = ("bits", "group_size")
PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # values that Hydra reads as they are
CANDIDATES_PER_SAMPLE = 4  # where calibration.pool does not say how many
_folders: dict[str, None] = {}  # of the user's own configurations, those that were named in this process


def register() -> None:
    """Makes the schema and the resolver of run names known to Hydra; may be called more than once."""
    os.environ.setdefault(SWEEP_VARIABLE, "")  # Hydra copies it to jobs and insists on finding it
    store = ConfigStore.instance()
    if "schema.yaml" not in store.repo:
        store.store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("candidates", candidates, replace=True)


def candidates(*, _root_: DictConfig) -> int:
    """The number of samples that are rendered or read; `calibration.samples` of them are used."""
    wanted = _root_.calibration
    samples, pool = int(wanted.samples), wanted.pool
    if wanted.selection == "random":
        return samples
    return CANDIDATES_PER_SAMPLE * samples if pool is None else int(pool)


def quote_numbers(argv: Sequence[str]) -> list[str]:
    """`group_size=64` → `group_size='64'`, in sweeps too: Hydra 1.3 refuses numbers as options of a group.

    Sweeps written as lists, choice(…) or range(…) become lists of quoted options. Values that Hydra cannot read, such as paths
    with spaces, are quoted too. Other arguments pass unchanged.
    """
    return [_quoted(argument) for argument in argv]


def _quoted(argument: str) -> str:
    key, is_override, value = argument.partition("=")
    numeric = key.lstrip("+") in NUMERIC_GROUPS
    if not is_override or argument.startswith("-") or (not numeric and PLAIN.fullmatch(value)):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return _quoted_text(key, value) or argument  # other mistakes are reported by Hydra itself
    if not numeric or isinstance(override.value(), Glob | IntervalSweep):
        return argument  # (what a glob stands for is known to Hydra alone)
    swept = override.is_sweep_override()
    values = list(override.sweep_iterator(_as_text)) if swept else [_as_text(override.value())]
    return f"{key}=" + ",".join(f"'{value}'" for value in values)


def _quoted_text(key: str, value: str) -> str | None:
    """A path with spaces or other signs that Hydra's grammar lacks, as a quoted string; None for anything structured."""
    if not value.strip() or value.lstrip()[0] in "[{('\"" or value.rstrip().endswith(","):
        return None
    candidate = f"{key}={_quoted_string(value)}"
    try:
        OverridesParser.create().parse_override(candidate)
    except HydraException:
        return None
    return candidate


def _quoted_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _as_text(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else "null" if value is None else str(value)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed configuration, spelled as on the command line: compose(["scheme=int4_group", "group_size=64"]).

    `--config-dir DIR` may be among the overrides. Raises ConfigError where there is no such folder.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    folders, overrides = config_folders(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=[*quote_numbers(overrides), *searchpath(folders)])


def searchpath(folders: Sequence[str]) -> list[str]:
    """The override that lets Hydra look for configurations in `folders` too; none for no folder."""
    quoted = ",".join(_quoted_string(f"file://{folder}") for folder in folders)
    return [f"hydra.searchpath=[{quoted}]"] if folders else []


def config_folders(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders that `--config-dir` (or `-cd`) names, absolute, and the other arguments. Raises ConfigError.

    From then on their YAML files are among the `options` of a group.
    """
    folders, others, arguments = [], [], iter(argv)
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if key not in ("--config-dir", "-cd"):
            others.append(argument)
            continue
        name = value if is_set else next(arguments, "")
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            raise ConfigError(
                f"{key} {name}: no such folder; name one that holds scheme/, model/ or dataset/"
            )
        folders.append(str(folder.absolute()))
    _folders.update(dict.fromkeys(folders))
    return folders, others


def run_candidates(words: Sequence[str]) -> list[str]:
    """Continuations of the last word, given those before it: groups, their options, and keys of a run's configuration."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin
    from omegaconf.errors import OmegaConfBaseException

    register()
    line = " ".join([*quote_numbers(words[:-1]), words[-1]])
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            completion = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
            return [c for c in completion._query("config", line) if not c.startswith("hydra/")]
    except (HydraException, OmegaConfBaseException, ValueError):
        return []  # words before it that make no configuration; the run will say so


def options(group: str) -> list[str]:
    """The YAML files of a group, e.g. options("group_size"), the user's own among them."""
    folders = (CONF, *map(Path, _folders))
    found = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
