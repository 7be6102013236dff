"""Modules of the user's own that add to vggtq's tables: those that `plugins=[…]` names, and installed ones that say so.

A plugin is imported before a configuration is checked, and registers metrics, roundings, scales or number formats when it is.
Installed packages name theirs as an entry point of the group `vggtq.plugins`. What was loaded is part of the digests that
records and caches look at. Files never say what is imported: a model file or a record that needs a plugin names it in an error.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path

from vggtq.errors import ConfigError, describe

GROUP = "vggtq.plugins"


@dataclass(frozen=True)
class Plugin:
    """A module that was imported. sha256: of its file, or of all source files of a package."""

    module: str
    sha256: str


_loaded: dict[str, Plugin] = {}


def load_plugins(names: Sequence[str] = ()) -> None:
    """Imports installed plugins, then those named, each once. Modules may lie in the current folder. Raises ConfigError."""
    for point in entry_points(group=GROUP):
        _load(point.value.partition(":")[0], f"the installed plugin {point.name}")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.append(os.getcwd())  # noqa: PTH109  # behind everything else: no file here may stand for an installed module
    for name in names:
        _load(name, f"plugins=[{name}]")


def loaded_plugins() -> list[Plugin]:
    """Those of this process, by name."""
    return [_loaded[name] for name in sorted(_loaded)]


def plugins_described() -> list[dict[str, str]]:
    """The same as plain values, for records and model files."""
    return [asdict(plugin) for plugin in loaded_plugins()]


def with_plugins(digest: str) -> str:
    """A digest of vggtq's own code, made to cover that of plugins; itself where there are none."""
    if not _loaded:
        return digest
    known = "".join(f"\n{plugin.module} {plugin.sha256}" for plugin in loaded_plugins())
    return hashlib.sha256(f"{digest}{known}".encode()).hexdigest()


def missing_plugins(described: Sequence[dict[str, str]]) -> list[str]:
    """The modules that a file names and that are not loaded."""
    return [plugin["module"] for plugin in described if plugin["module"] not in _loaded]


def _load(name: str, who: str) -> None:
    if name in _loaded:
        return
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise ConfigError(
            f"{who}: name a module as import does, without folder and .py, such as plugins=[my_methods]"
        )
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{who}: there is no module {name} in {os.getcwd()} or among what is installed; check the name"  # noqa: PTH109
            ) from error
        raise ConfigError(f"{who}: it imports {error.name}, which is not installed") from error
    except Exception as error:
        raise ConfigError(f"{who} cannot be imported: {describe(error)}") from error
    if not (file := getattr(module, "__file__", None)):
        raise ConfigError(f"{who}: {name} is a folder without __init__.py; name a module or a package")
    _loaded[name] = Plugin(name, _digest(Path(file)))


def _digest(file: Path) -> str:
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    if len(files) == 1:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [
        f"{path.relative_to(file.parent).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in files
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
