"""The groups of images that the network sees together: overlapping windows along a sequence, and loops, windows
of two distant parts of it.

Images are compared by their features (S, D), the patch tokens that the network's own patch embed makes of each
image, averaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggtq.predict.windows.options import LEAST, Windows

APART = 4  # windows between two parts that a loop may join; with half of a window shared, three have no image in common
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """windows: numbers of images. The first `along` follow each other; the others are loops."""

    windows: Sequence[Sequence[int]]
    along: int

    def owners(self) -> list[tuple[int, int]]:
        """For each image the window, not a loop, in which it lies farthest from both ends, and its place there."""
        best: dict[int, tuple[int, int, int]] = {}
        for number, window in enumerate(self.windows[: self.along]):
            for place, image in enumerate(window):
                depth = min(place, len(window) - 1 - place)
                if image not in best or depth > best[image][0]:
                    best[image] = depth, number, place
        # The camera of the first image is the world, exactly only where it is the first of its window.
        first = next(iter(self.windows[0]))
        best[first] = 0, 0, 0
        return [best[image][1:] for image in sorted(best)]

    def pairs(self) -> list[tuple[int, int]]:
        """Windows that share images: neighbours, and a loop with both windows that share most with it."""
        pairs = [(number - 1, number) for number in range(1, self.along)]
        sets = [set(window) for window in self.windows]
        for loop in range(self.along, len(sets)):
            shared = sorted(range(self.along), key=lambda other: -len(sets[other] & sets[loop]))
            pairs += [(other, loop) for other in shared[:4] if len(sets[other] & sets[loop]) >= LEAST // 2]
        return pairs


def cut(windows: Windows, count: int, look: Callable[[], Features]) -> Layout:
    """The windows of so many images. look: the features of all of them, asked for once and only where they are needed.

    `windows.frames` has to be set.
    """
    assert isinstance(windows.frames, int)
    row = along(count, windows.frames, windows.shared)
    most = len(row) if windows.loops is None else windows.loops
    similar, looped = windows.order == "similar", bool(most) and len(row) > APART
    features = look() if similar or looped else None
    order = by_similarity(features) if similar and features is not None else list(range(count))
    loops = closing(features[order], row, most) if looped and features is not None else []
    return Layout([[order[place] for place in window] for window in (*row, *loops)], len(row))


def along(count: int, size: int, overlap: int) -> list[list[int]]:
    """Windows of `size` places at most, which share at least `overlap` with the next one, spread evenly over `count`.

    >>> along(10, 6, 2)
    [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    """
    if count <= size:
        return [list(range(count))]
    steps = -(-(count - size) // (size - overlap))
    starts = [round(step * (count - size) / steps) for step in range(steps + 1)]
    return [list(range(start, start + size)) for start in starts]


def _distances(first: Features, second: Features) -> NDArray[np.float64]:
    """Euclidean, from every row of the first to every row of the second."""
    from scipy.spatial.distance import cdist  # half a second, and few predictions need windows

    return np.asarray(cdist(first, second))


def by_similarity(features: Features) -> list[int]:
    """An order of the images from the first one on: next comes the most similar image that is left.

    >>> by_similarity(np.array([[1, 0], [-1, 0.1], [0.5, 0.5], [-0.9, 0.4]], np.float32))
    [0, 2, 3, 1]
    """
    order, left = [0], set(range(1, len(features)))
    while left:
        apart = _distances(features[order[-1]][None], features)[0]
        order.append(min(left, key=lambda image: (apart[image], image)))
        left.discard(order[-1])
    return order


def closing(features: Features, windows: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """At most so many loops: half of the images around one place, half around another, the most similar pairs first.

    Places are at least APART windows away from each other: nearer ones have drifted little. They have to look as much alike as
    images a quarter of a window apart do, by their median; of places that look less alike, the network often errs about the way
    between them. Loops between the same parts are taken once.
    """
    size, found = len(windows[0]), list[tuple[float, int, int, int, int]]()
    pairs = zip(features, features[size // 4 :], strict=False)
    most_apart = float(np.median([_distances(a[None], b[None]) for a, b in pairs]))
    for first, window in enumerate(windows):
        apart = _distances(features[window[0] : window[-1] + 1], features)  # never of all images at once
        for second in range(first + APART, len(windows)):
            other = windows[second]
            part = apart[:, other[0] : other[-1] + 1]
            here, there = np.unravel_index(int(part.argmin()), part.shape)
            if part[here, there] <= most_apart:
                found.append((float(part[here, there]), first, second, int(here), int(there)))
    loops, taken = list[list[int]](), list[tuple[int, int]]()
    for _, first, second, near, far in sorted(found):
        if any(abs(first - a) + abs(second - b) <= 1 for a, b in taken):
            continue
        taken.append((first, second))
        half = size // 2
        loops.append([*_around(windows[first], near, size - half), *_around(windows[second], far, half)])
        if len(loops) == most:
            break
    return loops


def _around(window: Sequence[int], place: int, count: int) -> Sequence[int]:
    """So many places of a window, as evenly on both sides of one as the window has them."""
    start = min(max(place - count // 2, 0), len(window) - count)
    return window[start : start + count]
