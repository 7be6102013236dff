"""Which frames of a sequence are used: natural order, then `start`, `stride` and `max_images`."""

import re
from collections.abc import Sequence
from typing import TypeVar

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


def check_selection(start: int, stride: int, max_images: int | None) -> None:
    """Raises ConfigError for values that no sequence can satisfy."""
    if start < 0:
        raise ConfigError(f"dataset.start={start}: must be 0 or more; it counts frames from the first one")
    if stride < 1:
        raise ConfigError(f"dataset.stride={stride}: must be 1 or more; 1 takes every frame")
    if max_images is not None and max_images < 1:
        raise ConfigError(f"dataset.max_images={max_images}: must be 1 or more, or null for all frames")


def select(items: Sequence[T], start: int, stride: int, max_images: int | None, where: str) -> list[T]:
    """The chosen items. Raises DataError, with the counts, when nothing is left."""
    chosen = list(items[start::stride][:max_images])
    if not chosen:
        raise DataError(
            f"{where}: dataset.start={start} leaves none of {count(len(items), 'image')}; "
            f"use {f'a start below {len(items)}' if len(items) > 1 else 'start 0'}"
        )
    return chosen
