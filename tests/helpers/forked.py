"""vggtq's commands in processes that start within milliseconds: forked from one that has imported everything already."""

import importlib
import multiprocessing
import os
import pkgutil
import sys
from functools import cache
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

TESTS = str(Path(__file__).parents[1])
LONGEST_S = 900  # then a command hangs
PRELOADED = [
    *(
        "vggtq.run.__main__",
        "vggtq.run.job",
        "vggtq.run.fresh_memory",
        "vggtq.report.__main__",
        "vggtq.prepare.find_bits",
        "vggtq.prepare.quantized",
        "vggtq.records.picture",
        "vggtq.sweep.tracking",
    ),
    *("vggtq.data.motorcycle", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("skimage.metrics", "skimage.data", "skimage.io", "skimage.transform", "scipy.ndimage", "pandas"),
    "helpers.forked_ready",
]


def started(
    folder: Path,
    *arguments: str,
    module: str = "vggtq.run",
    without: tuple[str, ...] = (),
    errors: Path | None = None,
) -> BaseProcess:
    """A running `python -m MODULE` in `folder`. What it prints is in `printed(folder)`.

    without: packages that it does not find. errors: where its standard error goes; None, to the rest of what it prints.
    """
    (folder / "printed.txt").write_text("")
    process = _server().Process(target=_main, args=(str(folder), module, arguments, without, errors))
    process.start()
    return process


def finished(
    folder: Path, *arguments: str, module: str = "vggtq.run", without: tuple[str, ...] = ()
) -> tuple[int | None, str]:
    """Exit status and output of a command."""
    process = started(folder, *arguments, module=module, without=without)
    process.join(timeout=LONGEST_S)
    return process.exitcode, printed(folder)


def printed(folder: Path) -> str:
    """Standard output and error of the last command that was started in `folder`."""
    return (folder / "printed.txt").read_text()


@cache
def _server() -> ForkServerContext:
    """With the server running, which finds the tests' folder only by this variable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    path = os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def _main(
    folder: str, module: str, arguments: tuple[str, ...], without: tuple[str, ...], errors: Path | None
) -> None:
    _hide(without)
    os.chdir(folder)
    os.environ["COLUMNS"] = "200"
    with Path("printed.txt").open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if errors:
        with errors.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 2)
    sys.path[:] = [folder, *(path for path in sys.path if not path.startswith(TESTS))]
    sys.argv = [module, *arguments]
    found = find_spec(module)
    package = found is not None and found.submodule_search_locations is not None
    sys.exit(importlib.import_module(f"{module}.__main__" if package else module).main())


def _hide(packages: tuple[str, ...]) -> None:
    """From imports, from find_spec, and from Hydra, which walks through the packages below hydra_plugins once more."""
    if not packages:
        return
    from helpers.forked_ready import WITHOUT_PLUGINS

    ConfigStore.instance().repo = WITHOUT_PLUGINS
    Singleton._instances.pop(Plugins, None)
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    walk = pkgutil.walk_packages
    pkgutil.walk_packages = lambda *a, **k: (m for m in walk(*a, **k) if not m.name.startswith(packages))  # type: ignore
