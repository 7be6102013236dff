"""A loaded model that the next prediction of this process takes again, if it was asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_kept: dict[str, Any] | None = None  # one model by the arguments it was loaded with; None: not asked for


@contextmanager
def keeping(wanted: bool) -> Iterator[None]:
    """Inside, the last model that was loaded stays in memory if `wanted`. It is let go of at the end."""
    global _kept
    _kept = {} if wanted else None
    try:
        yield
    finally:
        _kept = None


def kept(load: Callable[P, T]) -> Callable[P, T]:
    """Decorates what loads a model: the same arguments give the same model, which must not be changed after that."""

    @wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        if _kept is None:
            return load(*args, **kwargs)
        key = repr((args, kwargs))
        if key not in _kept:
            _kept.clear()  # before the next one is loaded
            _kept[key] = load(*args, **kwargs)
        found: T = _kept[key]
        return found

    return loaded
