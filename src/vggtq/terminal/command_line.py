"""Beginning and end of a command: help, version, completion, options, one line for an error, exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vggtq.errors import ConfigError, VggtqError
from vggtq.machine import native, signals
from vggtq.terminal import completion
from vggtq.terminal.commands import COMMANDS, enter
from vggtq.terminal.help import Command, help_text
from vggtq.terminal.options import parse
from vggtq.version import __version__

T = TypeVar("T")


def version_text() -> str:
    """The output of `--version` of every command: our version, and the native kernels that this CPU runs."""
    return f"{__version__}\nnative CPU kernels: {native.describe()}\n"


def tell(text: str) -> None:
    """Prints; the reading program may stop early, as `head` does."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        stop_printing()


def stop_printing() -> None:
    """Python flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answered(argv: Sequence[str], command: Command[Any]) -> bool:
    """Whether help, the version, completion or a subcommand was all that was asked for. Raises ConfigError."""
    if argv and f"{command.name} {argv[0]}" in COMMANDS:
        enter(f"{command.name} {argv[0]}", argv[1:])
    elif {"-h", "--help", "help"} & set(argv) or (not argv and command.needs_arguments):
        tell(help_text(command, argv))
    elif "--version" in argv:
        tell(version_text())
    elif argv and argv[0] in completion.FLAGS:
        tell(completion.answer(" ".join(argv[1:]), command))
    else:
        return False
    return True


def execute(argv: Sequence[str] | None, command: Command[T], work: Callable[[T], int | None]) -> int:
    """Runs a command and returns its exit status: 0, 1 after an error in one line, 130 or 143 when interrupted.

    argv: None for that of the process. `--help` and `-h`, or no argument where one is needed, print the help.
    """
    argv = sys.argv[1:] if argv is None else argv
    previous = signals.install()
    status = 0
    try:
        if not answered(argv, command):
            status = work(parse(command.before(argv), command.options)) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        stop_printing()
        return 1
    except VggtqError as error:
        return _fail(
            " ".join(str(error).split()), command.wrong_usage if isinstance(error, ConfigError) else 1
        )
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        return _fail(f"{error.filename or 'a file'}: {reason}; check the path and the disk", 1)
    except KeyboardInterrupt as request:
        signals.settled()
        print("interrupted; no file was left half written", file=sys.stderr)
        return 143 if isinstance(request, signals.Terminated) else 130
    finally:
        signals.restore(previous)
    return status


def entry(command: Command[T], work: Callable[[T], int | None]) -> Callable[..., int]:
    """The `main(argv=None)` of a command's module, which returns the result of `execute`."""

    def main(argv: Sequence[str] | None = None) -> int:
        return execute(argv, command, work)

    return main


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
