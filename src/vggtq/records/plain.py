"""Dataclasses as plain JSON values, and back.

A field is a key. Two kinds of fields differ, by their metadata: `inline`, a dict whose entries stand beside the other keys, and
`optional`, a key that is left out while its value is None. Undefined numbers, NaN and infinities, become null.

Reading takes any JSON value. What is missing reads as None, as an empty list or as an empty dict; so does what should be a
list or an object and is something else. Single numbers and words stay as the file has them. Keys that a class does not have,
as of a later vggtq, are kept as attributes and written again.
"""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

OPTIONAL = {"optional": True}

T = TypeVar("T")
Reader = Callable[[Any], Any]


def plain(value: Any) -> Any:
    """Plain JSON values; NaN and infinities become null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return _of_dataclass(value)
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def _of_dataclass(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = fields(value)
    for field in known:
        item = getattr(value, field.name)
        if field.metadata.get("inline"):
            found |= plain(item)
        elif item is not None or not field.metadata.get("optional"):
            found[field.name] = plain(item)
    own = vars(value)
    if len(own) > len(known):
        names = {field.name for field in known}
        found |= {key: plain(item) for key, item in own.items() if key not in names}
    return found


def parsed(kind: type[T], value: Any) -> T:
    """The dataclass `kind` from a JSON value; from anything but an object, one that knows nothing."""
    reader: Callable[[Any], T] = _class_reader(cast(Any, kind))
    return reader(value)


@cache
def nothing(kind: type[T]) -> T:
    """A `kind` that knows nothing, to read from where a record has none."""
    return parsed(kind, None)


@cache
def _class_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    inline = next((field.name for field in fields(kind) if field.metadata.get("inline")), "")
    names = [field.name for field in fields(kind) if field.name != inline]
    blank = dict.fromkeys(names)
    nested = tuple((name, reader) for name in names if (reader := _reader(hints[name])))
    read_inline = _reader(hints[inline]) if inline else None

    def read(value: Any) -> Any:
        known = value if isinstance(value, dict) else {}
        if read_inline:
            others = known.copy()
            own = {name: others.pop(name, None) for name in names}
            own[inline] = read_inline(others)
        else:
            own = {**blank, **known}
        for name, reader in nested:
            own[name] = reader(own[name])
        made = object.__new__(kind)  # without __init__: ten thousand records have millions of values
        object.__setattr__(made, "__dict__", own)  # frozen ones too
        return made

    return read


def _reader(kind: Any) -> Reader | None:
    """Reads a JSON value as a field's type; None where it stays as it is."""
    arguments = get_args(kind)
    if is_dataclass(kind):
        return _class_reader(cast(Any, kind))
    if get_origin(kind) is list:
        item = _reader(arguments[0])
        return lambda value: _list(value, item)
    if get_origin(kind) is dict:
        entry = _reader(arguments[1]) if arguments[1] != dict[str, Any] else None
        return lambda value: _dict(value, entry)
    kinds = [one for one in arguments if one is not type(None)] if get_origin(kind) is UnionType else []
    return _of_several(kinds) if len(kinds) > 1 else _or_none(kinds[0]) if kinds else None


def _or_none(kind: Any) -> Reader | None:
    reader = _reader(kind)
    if reader is None:
        return None
    expected = list if get_origin(kind) is list else dict
    return lambda value: reader(value) if isinstance(value, expected) else None


def _of_several(kinds: list[Any]) -> Reader | None:
    """Reads an object as the first of several classes that has one of its keys; their keys are all different."""
    choices = [
        (frozenset(field.name for field in fields(kind)), _class_reader(cast(Any, kind)))
        for kind in kinds
        if is_dataclass(kind)
    ]

    def read(value: Any) -> Any:
        keys = value if isinstance(value, dict) else ()
        fitting = (reader for names, reader in choices if not names.isdisjoint(keys))
        return next(fitting, choices[0][1])(value)

    return read if choices else None


def _list(value: Any, item: Reader | None) -> list[Any]:
    if not isinstance(value, list):
        return []
    return [item(part) for part in value] if item else value


def _dict(value: Any, item: Reader | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {key: item(part) for key, part in value.items()} if item else value


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None; an integer stays one."""
    if type(value) is float:  # most are: ten thousand records have millions
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: Any) -> str | None:
    return None if value is None else str(value)


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
