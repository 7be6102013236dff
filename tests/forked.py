"""`python -m vggtq.run` in processes that start within milliseconds: forked from one that has imported everything already."""

import multiprocessing
import os
import pkgutil
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    *("vggtq.run", "vggtq.fresh_memory", "vggtq.report", "vggtq.allocation", "vggtq.tracking"),
    *("vggtq.data.motorcycle", "skimage.metrics", "skimage.data", "pandas"),
]


def started(folder: Path, *arguments: str, without: tuple[str, ...] = ()) -> BaseProcess:
    """A running command in `folder`; what it prints is in `printed(folder)`. without: packages that it does not find."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(str(folder), arguments, without))
    (folder / "printed.txt").write_text("")
    process.start()
    return process


def finished(folder: Path, *arguments: str, without: tuple[str, ...] = ()) -> tuple[int | None, str]:
    """Exit status and output of a command."""
    process = started(folder, *arguments, without=without)
    process.join(timeout=300)
    return process.exitcode, printed(folder)


def printed(folder: Path) -> str:
    """Standard output and error of the last command that was started in `folder`."""
    return (folder / "printed.txt").read_text()


def _main(folder: str, arguments: tuple[str, ...], without: tuple[str, ...]) -> None:
    _hide(without)
    os.chdir(folder)
    os.environ["COLUMNS"] = "200"
    with Path("printed.txt").open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["vggtq.run", *arguments]
    from vggtq.run import main

    main()


def _hide(packages: tuple[str, ...]) -> None:
    """From imports, from find_spec, and from Hydra, which walks through the packages below hydra_plugins."""
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    walk = pkgutil.walk_packages
    pkgutil.walk_packages = lambda *a, **k: (m for m in walk(*a, **k) if not m.name.startswith(packages))  # type: ignore
