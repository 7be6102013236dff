"""The options of a command are the fields of a dataclass; `key=value` arguments set them.

A field has its meaning, its values, and whether words without `=` set it; parsing, `--help` and tab completion
read it there.
"""

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from vggtq.errors import ConfigError, check_choice
from vggtq.terminal.synonyms import meant

T = TypeVar("T")
WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
MANY = 20  # options that no message lists
KINDS = {int: "a whole number", float: "a number"}


def option(
    meaning: str,
    default: Any = MISSING,
    *,
    choices: Sequence[str] = (),
    least: int | None = None,
    words: str = "",
    missing: str = "",
    rest: bool = False,
) -> Any:
    """A field of a dataclass of options; one without default has to be given.

    words: accepts arguments without `=`, a list all of them; shown in the usage by this name. missing: the
    remedy where it is not given. rest: a list that receives every argument that is no option of the command.
    """
    facts = {
        "meaning": meaning,
        "choices": choices,
        "least": least,
        "words": words,
        "missing": missing,
        "rest": rest,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=facts)
    return field(default=default, metadata=facts)


def parse(argv: Sequence[str], options: type[T]) -> T:
    """The options that `argv` sets. Raises ConfigError."""
    described = options_of(options)
    found, hints = ({name: part[i] for name, part in described.items()} for i in (0, 1))
    rest = next((name for name, f in found.items() if f.metadata.get("rest")), None)
    known = [name for name in found if name != rest]
    takers = [name for name in known if found[name].metadata.get("words")]
    given: dict[str, Any] = {}
    words: list[str] = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in known and equals:
            if key in given:
                raise ConfigError(f"{key} is given twice; give it once")
            given[key] = _typed(key, value, found[key], hints[key])
        elif (
            takers
            and key not in known
            and not argument.startswith("-")
            and (not equals or Path(argument).exists())
        ):
            words.append(argument)
        elif rest is not None and key not in known:
            given.setdefault(rest, []).append(argument)
        else:
            raise ConfigError(unknown(argument, known))
    for name in takers:
        if get_origin(hints[name]) is list and words:
            given[name] = [*given.get(name, []), *(_checked(name, found[name], word) for word in words)]
            words = []
        elif words and name not in given:
            given[name] = _typed(name, words.pop(0), found[name], hints[name])
    if words:
        raise ConfigError(f"{words[0]}: one argument too many; options are {', '.join(known)}")
    for name in known:
        if required(found[name]) and not given.get(name):
            raise ConfigError(f"{name} is missing; {found[name].metadata['missing']}")
    return _made(options, given)


def options_of(options: type) -> dict[str, tuple["Field[Any]", Any]]:
    """Field and type by name; those of a field that is a dataclass itself follow as `name.field`."""
    hints = get_type_hints(options)
    found: dict[str, tuple[Field[Any], Any]] = {}
    for f in fields(options):
        if is_dataclass(hints[f.name]):
            found |= {f"{f.name}.{name}": part for name, part in options_of(hints[f.name]).items()}
        else:
            found[f.name] = f, hints[f.name]
    return found


def _made(options: type[T], given: dict[str, Any]) -> T:
    hints, values = get_type_hints(options), dict(given)
    for name, kind in hints.items():
        if is_dataclass(kind):
            dotted = {key: values.pop(key) for key in [*values] if key.startswith(f"{name}.")}
            values[name] = _made(kind, {key.partition(".")[2]: value for key, value in dotted.items()})  # type: ignore[arg-type]
    return options(**values)


def required(option: "Field[Any]") -> bool:
    """Whether it has to be given."""
    return option.default is MISSING and option.default_factory is MISSING


def unknown(argument: str, known: Sequence[str]) -> str:
    """The message for an argument that is none of the known options."""
    key, equals, _ = argument.partition("=")
    bare = key.lstrip("-").replace("-", "_")
    if key in known:
        return f"{key} needs a value: {key}=…"
    if bare in known:
        return f"{key}: options are written without dashes: {bare}=…"
    hint = meant(bare, known) or (
        f"; options are {', '.join(known)}" if len(known) < MANY else "; --help lists them"
    )
    if not equals and not key.startswith("-"):
        return f"{key}: expected key=value{hint}"
    return f"{key} is not an option{hint}"


def _typed(name: str, value: str, option: "Field[Any]", hint: Any) -> Any:
    if NoneType in get_args(hint):
        if value.lower() in ("null", "none"):
            return None
        hint, *named = (kind for kind in get_args(hint) if kind is not NoneType)
        words = [word for kind in named for word in get_args(kind)]  # of int | Literal["auto"] | None
        if value in words:
            return value
        if words and not value.lstrip("-").isdigit():
            raise ConfigError(f"{name}={value}: expected {KINDS[hint]} or {', '.join(words)}")
    if get_origin(hint) is list:
        # A path may hold commas.
        bracketed = value.startswith("[") and value.endswith("]")
        text = value[1:-1] if bracketed else value
        whole = bool(option.metadata.get("words")) and not bracketed
        parts = [text] if whole else text.split(",")
        return [_value(name, part.strip(), option, get_args(hint)[0]) for part in parts if part.strip()]
    return _value(name, value, option, hint)


def _value(name: str, value: str, option: "Field[Any]", kind: type) -> Any:
    if kind is bool:
        if value.lower() not in WORDS:
            raise ConfigError(f"{name}={value}: use true or false")
        return WORDS[value.lower()]
    return _checked(name, option, _number(name, value, kind) if kind in KINDS else value)


def _checked(name: str, option: "Field[Any]", value: Any) -> Any:
    """The value, if it is one of the choices and no less than the least."""
    choices, least = option.metadata.get("choices"), option.metadata.get("least")
    if choices:
        check_choice(name, value, choices)
    if least is not None and value < least:
        raise ConfigError(f"{name}={value}: use at least {least}")
    return value


def _number(key: str, value: str, kind: type) -> Any:
    try:
        number = kind(value)
    except ValueError as error:
        raise ConfigError(f"{key}={value}: expected {KINDS[kind]}") from error
    if not math.isfinite(number):
        raise ConfigError(f"{key}={value}: expected {KINDS[kind]}")
    return number
