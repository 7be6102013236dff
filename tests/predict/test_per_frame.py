"""Maps that are read frame by frame give the numbers of one array in memory."""

import numpy as np
import pytest

from vggtq.predict import per_frame
from vggtq.predict.files.maps import colour_range, png16_scale
from vggtq.predict.per_frame import PerFrame, positive, values


@pytest.fixture
def depth() -> np.ndarray:
    maps = np.random.default_rng(0).normal(2, 1, (7, 20, 30)).astype(np.float32)
    maps[2, 3], maps[5] = np.nan, np.inf
    return maps


def test_a_frame_is_made_when_it_is_asked_for(depth: np.ndarray) -> None:
    made: list[int] = []
    maps = PerFrame(7, lambda frame: made.append(frame) or depth[frame])  # type: ignore[func-returns-value]
    assert len(maps) == 7 and made == []
    np.testing.assert_array_equal(maps[4], depth[4])
    assert made == [4]
    np.testing.assert_array_equal(np.stack(list(maps)), depth)
    with pytest.raises(IndexError, match="frame 7 of 7"):
        maps[7]


def test_values_are_those_of_the_array(depth: np.ndarray) -> None:
    maps = PerFrame(7, depth.__getitem__)
    for chosen, expected in (
        (per_frame.finite, np.isfinite(depth)),
        (positive, np.isfinite(depth) & (depth > 0)),
    ):
        np.testing.assert_array_equal(values(depth, chosen), depth[expected])
        np.testing.assert_array_equal(values(maps, chosen), depth[expected])
    assert colour_range(maps) == colour_range(depth)
    assert png16_scale(maps) == png16_scale(depth)
    assert values(PerFrame(0, depth.__getitem__)).size == 0


def test_of_very_many_values_some_are_taken_from_every_frame(
    depth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_frame, "MOST_VALUES", 700)
    some = values(PerFrame(7, depth.__getitem__))
    assert 500 < len(some) <= 700
    assert len(values(depth)) == np.isfinite(depth).sum()  # they are in memory anyway
    for frame in (0, 6):
        assert np.isin(depth[frame], some).sum() == 100
