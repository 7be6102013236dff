"""`python -m vggtq.run` in processes that start within milliseconds: forked from one that has imported everything already."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    *("vggtq.run", "vggtq.fresh_memory", "vggtq.report", "vggtq.allocation", "vggtq.tracking"),
    *("vggtq.data.motorcycle", "skimage.metrics", "skimage.data", "pandas"),
]


def started(folder: Path, *arguments: str) -> BaseProcess:
    """A running command in `folder`; what it prints is in `printed(folder)`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(str(folder), arguments))
    (folder / "printed.txt").write_text("")
    process.start()
    return process


def finished(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit status and output of a command."""
    process = started(folder, *arguments)
    process.join(timeout=300)
    return process.exitcode, printed(folder)


def printed(folder: Path) -> str:
    """Standard output and error of the last command that was started in `folder`."""
    return (folder / "printed.txt").read_text()


def _main(folder: str, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    os.environ["COLUMNS"] = "200"
    with Path("printed.txt").open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["vggtq.run", *arguments]
    from vggtq.run import main

    main()
