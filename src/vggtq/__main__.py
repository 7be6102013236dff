"""`vggtq run …`, `vggtq report …` and so on: the same as python -m vggtq.run, python -m vggtq.report, …"""

import os
import sys

from vggtq.errors import ConfigError, did_you_mean
from vggtq.terminal import completion
from vggtq.terminal.command_line import tell, version_text
from vggtq.terminal.commands import COMMANDS, enter, named
from vggtq.terminal.help import overview


def main() -> None:
    """Hands the rest of the command line to a command's own module."""
    argv = sys.argv[1:] or ["--help"]
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  # as python -m does, for plugins in this folder
    name, rest = named(argv)
    if argv[0] in ("-h", "--help", "help"):
        tell(overview())
    elif argv[0] == "--version":
        tell(version_text())
    elif argv[0] in completion.FLAGS:
        _complete(argv)
    elif name:
        enter(name, rest)
    else:
        known = [command for command in COMMANDS if " " not in command]
        sys.exit(
            f"error: {argv[0]} is not one of {', '.join(known)}{did_you_mean(argv[0], known)}; see vggtq --help"
        )


def _complete(argv: list[str]) -> None:
    if argv[1:] == ["query=bash"] and (name := completion.handed_over()):
        enter(name, argv)
    try:
        tell(completion.answer(" ".join(argv[1:]), None))
    except ConfigError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
