"""The title of a row: its label and, where others share it, the few settings that distinguish them."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vggtq.report.rows.row import Row

Settings = Mapping[str, str]  # dotted key of the configuration -> its value as one would type it

_KEYS = 2  # with more of them a title is no longer read
_CHARACTERS = 40
_spelled = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each value


def flat(node: Any) -> dict[str, str]:
    """A nested mapping, such as the configuration of a run, as dotted keys and values as one would type them."""
    found: dict[str, str] = {}
    _enter(found, "", node)
    return found


def _enter(found: dict[str, str], prefix: str, node: Any) -> None:
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict):
            _enter(found, f"{prefix}{name}.", value)
            continue
        plain = value if type(value) is str else str(value) if type(value) is int else _spelled(value)
        found[sys.intern(prefix + name)] = sys.intern(
            plain
        )  # kept once: thousands of runs differ in a handful of values


def unique_titles(rows: Sequence[Row], settings: Sequence[Settings]) -> list[str]:
    """Each row's label; where titles would be equal, differences are added: settings, else name, else hash."""
    given = [row["title"] for row in rows]
    if all(given) and len(set(given)) == len(given):
        return given
    titles = [shortened(row["label"]) if row["label"] == row["name"] else row["label"] for row in rows]
    titles = _extended(titles, _differences(titles, settings))
    for column in ("name", "config_hash"):
        titles = _extended(titles, [shortened(row[column] or "") for row in rows])
    return titles


def shortened(name: str, width: int = 24) -> str:
    """The name of a folder without its middle: it begins with the scheme and ends in 8 digits of the hash."""
    return name if len(name) <= width else f"{name[: width - 9]}…{name[-8:]}"


def _differences(titles: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """For each row the differences among rows of its title, as `seed=5`; empty where they are too long."""
    found = [""] * len(titles)
    for members in _sharing(titles):
        own = [settings[i] for i in members]
        keys = [
            key
            for key in own[0]
            if any(one.get(key) != own[0][key] for one in own) and all(key in one for one in own)
        ]
        if len(keys) > _KEYS:
            continue
        words = [", ".join(f"{_last(key, own[0])}={one[key]}" for key in keys) for one in own]
        if max(map(len, words)) <= _CHARACTERS:
            for i, text in zip(members, words, strict=True):
                found[i] = text
    return found


def _last(key: str, keys: Settings) -> str:
    """The end of a dotted key that no other key ends in."""
    parts = key.split(".")
    ends = (".".join(parts[i:]) for i in range(len(parts) - 1, 0, -1))
    return next((end for end in ends if not any(k != key and f".{k}".endswith(f".{end}") for k in keys)), key)


def _extended(titles: Sequence[str], extras: Sequence[str]) -> list[str]:
    """`title (extra)` where titles are shared and their extras are not all the same."""
    extended = list(titles)
    for members in _sharing(titles):
        if len({extras[i] for i in members}) > 1:
            for i in members:
                extended[i] = f"{titles[i]} ({extras[i]})" if extras[i] not in ("", titles[i]) else titles[i]
    return extended


def _sharing(titles: Sequence[str]) -> list[list[int]]:
    """The indices of each title that several rows have."""
    members: dict[str, list[int]] = {}
    for i, title in enumerate(titles):
        members.setdefault(title, []).append(i)
    return [own for own in members.values() if len(own) > 1]
