"""Tab completion in bash: `eval "$(vggtq run -sc install=bash)"`, which asks `vggtq -sc query=bash` at every tab.

The flags are those of Hydra, whose own completion knows programs of one command only.
"""

import os
from collections.abc import Sequence
from typing import Any

from vggtq.errors import ConfigError
from vggtq.terminal.commands import COMMANDS, named, subcommands
from vggtq.terminal.help import Command
from vggtq.terminal.options import options_of

FLAGS = ("-sc", "--shell-completion")
INSTALL, UNINSTALL = "install=bash", "uninstall=bash"

# Bash splits words at the signs of COMP_WORDBREAKS, = among them, and expects the text after the last one.
SCRIPT = r"""_vggtq() {
    local line=${COMP_LINE:0:$COMP_POINT} word prefix=
    word=${line##* }
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && prefix=${word%=*}=
    COMPREPLY=($(COMP_LINE=$line vggtq -sc query=bash 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] && compopt +o nospace 2>/dev/null
}
complete -o nospace -o default -F _vggtq vggtq
"""


def typed_words() -> list[str]:
    """The words of the command line behind `vggtq`; the last one is the one being typed, empty after a blank."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()[1:]
    return [*words, ""] if not words or line[-1:].isspace() else words


def answer(asked: str, command: Command[Any] | None) -> str:
    """The output of `vggtq COMMAND -sc ASKED`; without a command, that of `vggtq -sc ASKED`. Raises
    ConfigError.
    """
    if asked == INSTALL:
        return SCRIPT
    if asked == UNINSTALL:
        return "complete -r vggtq; unset -f _vggtq\n"
    if asked != "query=bash":
        raise ConfigError(f"-sc {asked}: completion is for bash; use {INSTALL} or {UNINSTALL}")
    words = typed_words()
    if command is None:
        found = [name for name in COMMANDS if " " not in name]
    else:
        found = [*(subcommands(command.name) if len(words) == 1 else []), *_options(command.options)]
        found += command.complete(words) if command.complete and not _of(found, words[-1]) else []
    return "".join(f"{candidate}\n" for candidate in _of(found, words[-1]))


def handed_over() -> str:
    """The command in the line that is being typed, if it is complete; from then on the line holds the text
    after it.
    """
    words = typed_words()
    name, rest = named(words[:-1])
    if name:
        os.environ["COMP_LINE"] = " ".join(["vggtq", *rest, words[-1]])
    return name


def _of(candidates: Sequence[str], word: str) -> list[str]:
    """Those that continue the word; values only once their key is there."""
    found = [c for c in candidates if c.startswith(word)]
    return (
        found if "=" in word else list(dict.fromkeys(c[: c.index("=") + 1] if "=" in c else c for c in found))
    )


def _options(options: type) -> list[str]:
    found = []
    for name, (option, hint) in options_of(options).items():
        choices = option.metadata.get("choices") or (("true", "false") if hint is bool else ("",))
        if option.metadata.get("meaning") and not option.metadata.get("rest"):
            found += [f"{name}={choice}" for choice in choices]
            found += option.metadata["choices"] if option.metadata["words"] else []
    return found
