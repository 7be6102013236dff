"""Depth, confidence or points of S frames: one array in memory, or one frame after the other from elsewhere."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

MOST_VALUES = 2**24  # that are looked at together, where not all of them lie in memory anyway

Frame = NDArray[np.float32]


class PerFrame:
    """Arrays of `count` frames, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Frame]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, frame: int) -> Frame:
        if not 0 <= frame < self._count:
            raise IndexError(f"frame {frame} of {self._count}")
        return self._make(frame)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._make, range(self._count))


Maps = Frame | PerFrame  # (S, …)
Choice = Callable[[int, Frame], NDArray[np.bool_]]


def finite(_: int, values: Frame) -> NDArray[np.bool_]:
    """A mask of the finite values."""
    return np.asarray(np.isfinite(values))


def positive(_: int, values: Frame) -> NDArray[np.bool_]:
    """A mask of the finite values above 0, as every depth is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(values) & (values > 0))


def values(maps: Maps, chosen: Choice = finite) -> NDArray[np.float32]:
    """(n,) those of all frames that are chosen, frame by frame: an array of its own.

    Of maps (H, W) that do not lie in memory, every k-th where there may be more than MOST_VALUES.
    """
    size = maps[0].size if len(maps) else 0
    step = 1 if isinstance(maps, np.ndarray) else max(1, -(-len(maps) * size // MOST_VALUES))
    found = np.empty(len(maps) * -(-size // step), np.float32)
    end = 0
    for frame, map_ in enumerate(maps):
        some = map_[chosen(frame, map_)][::step]
        found[end : end + len(some)] = some
        end += len(some)
    return found[:end]
