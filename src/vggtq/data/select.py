"""Selects the frames of a sequence: natural order, then `start`, `stride` and `max_images`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vggtq.data.preprocess import ImageOptions
from vggtq.errors import ConfigError, DataError

T = TypeVar("T")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts frame2 before frame10, whatever the letter case.

    >>> sorted(["frame10", "Frame2", "frame1"], key=natural_key)
    ['frame1', 'Frame2', 'frame10']
    """
    parts = re.split(r"([0-9]+)", name)
    # digits at even places would compare int with str, so each part carries its kind
    key = [(0, int(p), p) if i % 2 else (1, 0, p.lower()) for i, p in enumerate(parts)]
    return [*key, (2, 0, name)]


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(kw_only=True)
class Selection(ImageOptions):
    """Image files, some of which are used. Raises ConfigError for values that no sequence can satisfy."""

    max_images: int | None = None
    start: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start < 0:
            raise ConfigError(
                f"dataset.start={self.start}: must be 0 or more; it counts frames from the first one"
            )
        if self.stride < 1:
            raise ConfigError(f"dataset.stride={self.stride}: must be 1 or more; 1 takes every frame")
        if self.max_images is not None and self.max_images < 1:
            raise ConfigError(
                f"dataset.max_images={self.max_images}: must be 1 or more, or null for all frames"
            )

    def select(self, items: Sequence[T], where: str) -> list[T]:
        """The chosen items. Raises DataError, with the counts, when nothing is left."""
        chosen = list(items[self.start :: self.stride][: self.max_images])
        if not chosen:
            raise DataError(
                f"{where}: dataset.start={self.start} leaves none of {count(len(items), 'image')}; "
                f"use {f'a start below {len(items)}' if len(items) > 1 else 'start 0'}"
            )
        return chosen


def cut(items: Sequence[T], frames: int) -> list[Sequence[T]]:
    """Neighbours together; images that do not fill the last sequence are left out, unless there is no other."""
    return [items[i : i + frames] for i in range(0, max(1, len(items) - frames + 1), frames)]


def drawn(items: Sequence[T], count: int, seed: int) -> list[T]:
    """At most `count` of the items, in random order."""
    return [items[index] for index in np.random.default_rng(seed).permutation(len(items))[:count]]
