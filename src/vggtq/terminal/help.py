"""`--help` of every command in one style, made from the command's table entry and the fields of its options."""

import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_origin

from vggtq.terminal.commands import COMMANDS, subcommands
from vggtq.terminal.options import options_of, required
from vggtq.version import __version__

T = TypeVar("T")
KINDS = {int: "integer", float: "number", bool: "true|false"}


@dataclass(frozen=True)
class Command(Generic[T]):
    """The name of a command, its options and its help; its line is in COMMANDS.

    examples: the words after the name. notes: shown below the options. complete: further candidates for the
    words so far, the last one being typed. wrong_usage: the exit status after a ConfigError. before: turns the
    arguments into those that are read as options.
    """

    name: str
    options: type[T]
    examples: Sequence[str]
    notes: str | Callable[[Sequence[str]], str] = ""
    complete: Callable[[Sequence[str]], list[str]] | None = None
    wrong_usage: int = 1
    before: Callable[[Sequence[str]], Sequence[str]] = list

    @property
    def needs_arguments(self) -> bool:
        """Whether it can do nothing without any."""
        return any(required(f) for f in fields(self.options))  # type: ignore[arg-type]


def help_text(command: Command[Any], argv: Sequence[str] = ()) -> str:
    """The output of `vggtq COMMAND --help`; argv: the other arguments."""
    called = f"vggtq {command.name}"
    notes = command.notes if isinstance(command.notes, str) else command.notes(argv)
    parts = [
        f"{called}: {COMMANDS[command.name]}",
        "\n".join(
            [
                f"Usage: {called} {_usage(command.options)}",
                *(f"  {called} {e}".rstrip() for e in command.examples),
            ]
        ),
        "\n".join(["Options:", *table(_rows(command.options))]),
        _subcommands(command.name),
        notes.strip("\n"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _subcommands(name: str) -> str:
    rows = [(f"vggtq {name} {sub}", COMMANDS[f"{name} {sub}"]) for sub in subcommands(name)]
    return "\n".join(["Subcommands:", *table(rows)]) if rows else ""


def overview() -> str:
    """The output of `vggtq --help`."""
    return f"""\
vggtq {__version__}: which quantization of VGGT should you ship?

Usage: vggtq COMMAND [key=value …], or python -m vggtq.COMMAND [key=value …]
  vggtq run scheme=int4_group group_size=64
  vggtq report

Commands:
{chr(10).join(table(list(COMMANDS.items())))}

vggtq COMMAND --help shows what a command takes. Tab completion: eval "$(vggtq run -sc install=bash)"
"""


def _usage(options: type) -> str:
    """Words first, then the required options."""
    found = fields(options)
    words = [
        f.metadata["words"] if required(f) else f"[{f.metadata['words']}]"
        for f in found
        if f.metadata.get("words")
    ]
    needed = [f"{f.name}=…" for f in found if required(f) and not f.metadata.get("words")]
    return " ".join([*words, *needed, "[key=value …]"])


def _rows(options: type) -> list[tuple[str, str, str]]:
    return [
        ("key=value", "", f.metadata["meaning"])
        if f.metadata["rest"]
        else (name, type_name(f, hint), f"{f.metadata['meaning']} ({default_text(f)})")
        for name, (f, hint) in options_of(options).items()
        if "meaning" in f.metadata
    ]


def type_name(option: "Field[Any]", hint: Any) -> str:
    """The name, in the help, of the values that an option accepts."""
    kinds = [] if get_origin(hint) is list else [kind for kind in get_args(hint) if kind is not NoneType]
    kind, *named = kinds or [hint]
    items = get_args(kind)[0] if get_origin(kind) is list else kind
    words = [word for each in named for word in get_args(each)]  # of int | Literal["auto"] | None
    name = "|".join(option.metadata.get("choices", ())) or "|".join([KINDS.get(items, "text"), *words])
    return f"{name},…" if items is not kind else name


def default_text(option: "Field[Any]") -> str:
    """Its default, as it is written on a command line."""
    if required(option):
        return "required"
    factory = option.default_factory
    value = option.default if factory is MISSING else factory()
    if isinstance(value, list):
        value = ",".join(map(str, value))
    elif value is None or isinstance(value, bool):
        value = {None: "null", True: "true", False: "false"}[value]
    return f"default {value}" if value != "" else "default: none"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns side by side, indented; the last one is wrapped at the width of the terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = 2 + sum(width + 2 for width in widths)
    width = max(min(shutil.get_terminal_size().columns, 120) - indent, 40)
    lines = []
    for row in rows:
        head = "  " + "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        wrapped = textwrap.wrap(row[-1], width, break_on_hyphens=False, break_long_words=False) or [""]
        lines += [(head + wrapped[0]).rstrip(), *(" " * indent + line for line in wrapped[1:])]
    return lines
