"""docs/record.md from the dataclasses of the record: `python -m vggtq.records.reference docs/record.md`, part of `make docs`.

The docstring of a class describes the object. The comment behind a field, or the lines above it, describes the field.
"""

import ast
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from vggtq.files.atomic import replacing
from vggtq.records.schema import FILE_NAME, Record

NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any value"}
INTRODUCTION = """\
The tables below name every key of the file, its type and its content. A path such as `dataset.scenes[].files[]` stands for
an object in the list `files` of each object in `dataset.scenes`. `null` means that the value was not measured, or does not
exist for this run.

`make docs` writes this page from the comments in `vggtq.records`."""


def reference() -> str:
    """The whole page: a section for the record and for each object in it."""
    parts = [f"# The record: `{FILE_NAME}`", _prose(Record), INTRODUCTION, _table(Record)]
    first: dict[Any, str] = {}
    for path, kind in _objects(Record, ""):
        first.setdefault(kind, path)
    for kind, path in first.items():
        parts += [f"## `{path}`", _prose(kind), _table(kind)]
    return "\n\n".join(parts) + "\n"


def _objects(owner: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and class of every object below `owner`, in depth-first order."""
    hints = get_type_hints(owner)
    for field in fields(owner):
        place = path if field.metadata.get("inline") else f"{path}.{field.name}".lstrip(".")
        for below, inner in _inside(hints[field.name], place):
            yield below, inner
            yield from _objects(inner, below)


def _inside(kind: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The classes that a field's type holds, with the path of each."""
    if is_dataclass(kind):
        yield path, kind
    elif get_origin(kind) is dict:
        yield from _inside(get_args(kind)[1], f"{path}.<name>")
    elif get_origin(kind) is list:
        yield from _inside(get_args(kind)[0], f"{path}[]")
    elif get_origin(kind) is UnionType:
        for one in get_args(kind):
            yield from _inside(one, path)


def _prose(kind: type) -> str:
    """The docstring, its paragraphs on a line each."""
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _table(kind: type) -> str:
    hints, comments = get_type_hints(kind), comments_of(kind)
    lines = ["| key | type | content |", "|---|---|---|"]
    for field in fields(kind):
        key = "other keys" if field.metadata.get("inline") else f"`{field.name}`"
        often = ", may be absent" if field.metadata.get("optional") else ""
        words = comments[field.name] or _of_object(hints[field.name])
        lines.append(f"| {key} | {_type(hints[field.name])}{often} | {words} |")
    return "\n".join(lines)


def _of_object(kind: Any) -> str:
    """The first sentence of the docstring of the class that a field holds."""
    inner = next((one for _, one in _inside(kind, "")), None)
    return _prose(inner).partition(".")[0] if inner else ""


def _type(kind: Any) -> str:
    arguments = get_args(kind)
    if get_origin(kind) is list:
        items = {str: "texts", int: "integers", float: "numbers", list[float]: "lists of numbers"}
        return "list of " + items.get(arguments[0], "objects")
    if get_origin(kind) is UnionType:
        known = dict.fromkeys(_type(one) for one in arguments if one is not type(None))
        return " or ".join([*known, *(["null"] if type(None) in arguments else [])])
    return NAMES.get(kind, "object")


def comments_of(kind: type) -> dict[str, str]:
    """The comment behind each field, or the lines of comment right above it; empty for a field without one."""
    source = textwrap.dedent(inspect.getsource(kind))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    alone = {line for line in comments if source.splitlines()[line - 1].lstrip().startswith("#")}
    found = {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            line = node.lineno - 1
            while line in alone:
                above.insert(0, comments[line])
                line -= 1
            found[node.target.id] = " ".join([*above, comments.get(node.end_lineno or 0, "")]).strip()
    return found


if __name__ == "__main__":
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text(reference(), encoding="utf-8")
