"""Tables of entries that a scheme can name. A module outside of the package adds to them before it is named.

Imports nothing heavy: an entry may give objects that need torch as text, `module` or `module:attribute`.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from vggtq.errors import ConfigError


class Entry(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E]):
    """Entries by their `name`, in the order in which they were added. what: the kind of entry, for messages,
    e.g. `rounding`.
    """

    def __init__(self, what: str, *entries: E) -> None:
        self.what = what
        self._entries = {entry.name: entry for entry in entries}

    def register(self, entry: E) -> None:
        """Adds an entry. Raises ConfigError where another one has its name; the same one may come again."""
        if self._entries.get(entry.name, entry) != entry:
            raise ConfigError(
                f"{self.what} {entry.name}: the name is taken; register yours under another one"
            )
        self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def resolved(reference: Any) -> Any:
    """The object that `module` or `module:attribute` names, imported when it is first needed. Anything but text
    is returned as is.
    """
    return _imported(reference) if isinstance(reference, str) else reference


@functools.cache
def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
