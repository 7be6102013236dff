"""Which images windows and loops hold."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggtq.errors import ConfigError
from vggtq.predict.windows.layout import along, by_similarity, closing, cut
from vggtq.predict.windows.options import LEAST, Windows


def circle(count: int, turns: float) -> np.ndarray:
    """(count, 2): features of cameras that go round and round."""
    angles = np.linspace(0, 2 * np.pi * turns, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


@given(st.integers(1, 400), st.integers(LEAST, 64), st.data())
def test_windows_cover_everything_and_share_enough(count: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, size - 1))
    windows = along(count, size, overlap)
    assert sorted({place for window in windows for place in window}) == list(range(count))
    assert all(len(window) == min(size, count) for window in windows)
    for one, following in pairwise(windows):
        assert len(set(one) & set(following)) >= overlap
        assert one[0] < following[0]


def test_each_image_is_taken_from_the_window_it_lies_deepest_in() -> None:
    layout = cut(Windows(frames=6, overlap=2), 10, lambda: pytest.fail("no loop is possible"))
    assert layout.windows == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert [window for window, _ in layout.owners()] == [0] * 5 + [1] * 5
    assert layout.owners()[4] == (0, 4)
    assert layout.owners()[5] == (1, 1)
    assert layout.pairs() == [(0, 1)]


def test_loops_join_parts_that_look_alike() -> None:
    features = circle(100, 2)  # image i + 50 sees what image i sees
    windows = along(100, 10, 5)
    loops = closing(features, windows, 100)
    assert loops
    for loop in loops:
        first, second = np.mean(loop[:5]), np.mean(loop[5:])
        assert abs((second - first + 25) % 50 - 25) <= 10
        assert len(set(loop)) == 10
    assert closing(features, windows, 2) == loops[:2]
    assert closing(circle(100, 0.5), windows, 100) == []


def test_a_loop_is_paired_with_windows_of_both_of_its_parts() -> None:
    layout = cut(Windows(frames=10, overlap=5), 100, lambda: circle(100, 2))
    assert layout.along == 19
    for loop in range(layout.along, len(layout.windows)):
        partners = [first for first, second in layout.pairs() if second == loop]
        assert len(partners) >= 2
        assert max(partners) - min(partners) >= 4


def test_similar_images_follow_each_other() -> None:
    shuffled = np.random.default_rng(0).permutation(40)
    features = np.linspace([0, 0], [1, 2], 40).astype(np.float32)[shuffled]
    first = int(shuffled[0])
    order = shuffled[by_similarity(features)]
    assert order[0] == first
    assert sorted(order) == list(range(40))
    jumps = np.abs(np.diff(order))
    assert (jumps == 1).sum() >= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 3}, "windows.frames=3: use at least 4"),
        ({"frames": 8, "overlap": 8}, "windows.overlap=8: a window has only 8 images; use 7 at most"),
        ({"frames": 8, "overlap": 0}, "windows.overlap=0"),
        ({"frames": 8, "loops": -1}, "windows.loops=-1"),
        ({"overlap": 4}, "windows.overlap=4 without windows.frames"),
        ({"order": "similar"}, "windows.order=similar without windows.frames"),
        ({"frames": 8, "order": "time"}, "windows.order=time"),
    ],
)
def test_mistakes_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Windows(**options)  # type: ignore[arg-type]


def test_images_are_compared_where_that_decides_something() -> None:
    never = lambda: pytest.fail("nothing depends on it")  # noqa: E731
    assert cut(Windows(frames=10, overlap=5, loops=0), 100, never).along == 19
    shuffled = cut(
        Windows(frames=10, overlap=5, loops=0, order="similar"), 100, lambda: circle(100, 0.5)[::-1]
    )
    assert sorted({image for window in shuffled.windows for image in window}) == list(range(100))
