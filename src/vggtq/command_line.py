"""`key=value` command lines of the commands that need no Hydra, and how such a command ends.

The fields of a dataclass are the options and their types; its `__post_init__` checks the values. A word without `=` is
a positional argument.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from vggtq import interruption
from vggtq.errors import ConfigError, VggtqError, did_you_mean

T = TypeVar("T")
WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
KINDS = {int: "a whole number", float: "a number"}


def parse(argv: Sequence[str], options: type[T], positional: str | None = None) -> T:
    """The options that `argv` sets. Positional arguments are added to the list `positional`. Raises ConfigError.

    A field with the metadata `positional` is no option; one without default has the metadata `example`, for the message.
    """
    hints = get_type_hints(options)
    known = [f.name for f in fields(options) if not f.metadata.get("positional")]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    words: list[str] = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key not in known and not argument.startswith("-") and (not equals or Path(argument).exists()):
            words.append(argument)
            continue
        if key not in known or not equals:
            raise ConfigError(_unknown(key, known))
        if key in given:
            raise ConfigError(f"{key} is given twice; give it once")
        given[key] = _typed(key, value, hints[key])
    if words and positional is None:
        raise ConfigError(f"{words[0]}: expected key=value; options are {', '.join(known)}")
    if words and positional is not None:
        given[positional] = [*given.get(positional, []), *words]
    _check_required(options, given)
    return options(**given)


def _unknown(key: str, known: Sequence[str]) -> str:
    bare = key.lstrip("-").replace("-", "_")
    if key in known:
        return f"{key} needs a value: {key}=…"
    if bare in known:
        return f"{key}: options are written without dashes: {bare}=…"
    near = did_you_mean(bare, known) or f"; options are {', '.join(known)}"
    return f"{key} is not an option{near}"


def _typed(key: str, value: str, hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    if NoneType in get_args(hint) and value.lower() in ("null", "none"):
        return None
    if hint == list[str]:
        bracketed = value.startswith("[") and value.endswith("]")
        parts = value[1:-1].split(",") if bracketed else [value]
        return [part.strip() for part in parts if part.strip()]
    if kinds[0] is bool:
        if value.lower() not in WORDS:
            raise ConfigError(f"{key}={value}: use true or false")
        return WORDS[value.lower()]
    if kinds[0] in KINDS:
        return _number(key, value, kinds[0])
    return value


def _number(key: str, value: str, kind: type) -> Any:
    try:
        number = kind(value)
    except ValueError as error:
        raise ConfigError(f"{key}={value}: expected {KINDS[kind]}") from error
    if not math.isfinite(number):
        raise ConfigError(f"{key}={value}: expected {KINDS[kind]}")
    return number


def _check_required(options: type, given: dict[str, Any]) -> None:
    for field in fields(options):
        if field.default is MISSING and field.default_factory is MISSING and not given.get(field.name):
            what = "the arguments are" if field.metadata.get("positional") else f"{field.name} is"
            raise ConfigError(f"{what} missing; {field.metadata['example']}")


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigError for a value that is not among the choices."""
    if value not in choices:
        raise ConfigError(f"{key}={value} is not one of {', '.join(choices)}{did_you_mean(value, choices)}")


def execute(argv: Sequence[str], text: str, work: Callable[[Sequence[str]], None]) -> int:
    """Runs a command and returns its exit status: 0, 1 after an error in one line, 130 or 143 when interrupted.

    `--help`, `-h`, or no argument at all print `text`.
    """
    if not argv or {"-h", "--help", "help"} & set(argv):
        print(text, end="")
        return 0
    previous = interruption.install()
    try:
        work(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except VggtqError as error:
        return _fail(" ".join(str(error).split()))
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        return _fail(f"{error.filename or 'a file'}: {reason}; check the path and the disk")
    except KeyboardInterrupt as request:
        interruption.settled()
        print("interrupted; no file was left half written", file=sys.stderr)
        return 143 if isinstance(request, interruption.Terminated) else 130
    finally:
        interruption.restore(previous)
    return 0


@contextmanager
def log_lines() -> Iterator[None]:
    """Shows what vggtq logs, and no other library, as plain lines on stdout."""
    logger, handler = logging.getLogger("vggtq"), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
