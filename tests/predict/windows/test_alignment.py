"""Worlds of windows: similarities against scikit-image, exact worlds found again, and what a pose graph does to drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

from vggtq.predict.windows.align import AlignmentError, View, align
from vggtq.predict.windows.graph import Edge, solve
from vggtq.predict.windows.layout import Layout, along
from vggtq.predict.windows.similarity import Similarity, robust, umeyama, weighted_median

HEIGHT, WIDTH = 6, 8


def any_similarity(seed: int, turn: float = 1.0, shift: float = 1.0) -> Similarity:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(turn * rng.normal(size=3)).as_matrix()
    return Similarity(float(np.exp(0.3 * turn * rng.normal())), rotation, shift * rng.normal(size=3))


def matrix(similarity: Similarity) -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3] = similarity.scale * similarity.rotation
    whole[:3, 3] = similarity.translation
    return whole


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_similarities_are_matrices(first: int, second: int) -> None:
    a, b = any_similarity(first), any_similarity(second)
    np.testing.assert_allclose(matrix(a @ b), matrix(a) @ matrix(b), atol=1e-9)
    np.testing.assert_allclose(matrix(a @ a.inverse()), np.eye(4), atol=1e-9)


def test_moved_cameras_see_moved_points_at_the_same_pixels() -> None:
    world, rng = any_similarity(1), np.random.default_rng(0)
    cameras = np.stack(
        [matrix(Similarity(1.0, any_similarity(i).rotation, rng.normal(size=3)))[:3] for i in (5, 6)]
    )
    points = rng.normal(size=(20, 3))
    before = points @ cameras[:, :, :3].mT + cameras[:, None, :, 3]
    moved = world.cameras(cameras)
    after = world.points(points) @ moved[:, :, :3].mT + moved[:, None, :, 3]
    np.testing.assert_allclose(after, world.scale * before, atol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 50))
def test_umeyama_is_that_of_scikit_image(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, 3))
    target = any_similarity(seed).points(source) + 0.1 * rng.normal(size=(count, 3))
    expected = SimilarityTransform.from_estimate(source, target).params
    np.testing.assert_allclose(matrix(umeyama(source, target, np.ones(count))), expected, atol=1e-8)
    twice = np.r_[source, source[:2]], np.r_[target, target[:2]]
    weights = np.r_[2.0, 2.0, np.ones(count - 2)]
    again = SimilarityTransform.from_estimate(*twice).params
    np.testing.assert_allclose(matrix(umeyama(source, target, weights)), again, atol=1e-8)


def test_a_quarter_of_wrong_points_does_not_matter() -> None:
    rng, true = np.random.default_rng(0), any_similarity(3)
    source = rng.normal(size=(400, 3))
    target = true.points(source) + 1e-3 * rng.normal(size=(400, 3))
    target[:100] += rng.normal(1, 1, size=(100, 3))
    found, error = robust(source, target, np.ones(400))
    np.testing.assert_allclose(matrix(found), matrix(true), atol=1e-3)
    assert error < 5e-3
    assert np.abs(matrix(umeyama(source, target, np.ones(400))) - matrix(true)).max() > 0.05


def test_weighted_medians() -> None:
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([5.0, 1.0, 1.0])) == 3


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="three points"):
        robust(np.zeros((5, 3)), np.zeros((5, 3)), np.ones(5))


class Captures:
    """Images of a world, seen by windows that each have a world of their own."""

    def __init__(self, count: int, windows: list[list[int]], noise: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.cameras = np.stack(
            [
                matrix(Similarity(1.0, any_similarity(i).rotation, rng.normal(size=3)))[:3]
                for i in range(count)
            ]
        )
        self.points = rng.normal(size=(count, HEIGHT, WIDTH, 3)) + np.array([0, 0, 5])
        self.worlds = [Similarity.identity(), *(any_similarity(100 + i) for i in range(1, len(windows)))]
        self.windows, self.noise = windows, noise

    def view(self, number: int) -> View:
        window, into = self.windows[number], self.worlds[number].inverse()
        rng = np.random.default_rng(number)
        points = into.points(self.points[window]) + self.noise * rng.normal(
            size=(len(window), HEIGHT, WIDTH, 3)
        )
        points[:, 0] = np.nan  # pixels without depth
        return View(into.cameras(self.cameras[window]), points, np.ones(points.shape[:3]))


def test_worlds_are_found_again() -> None:
    windows = [*along(20, 8, 4), [0, 1, 2, 3, 16, 17, 18, 19]]
    captures = Captures(20, windows)
    layout = Layout(windows, len(windows) - 1)
    alignment = align(layout, captures.view)
    for found, true in zip(alignment.worlds, captures.worlds, strict=False):
        np.testing.assert_allclose(matrix(found), matrix(true), atol=1e-6)
    assert len(alignment.worlds) == layout.along
    assert alignment.described()["largest_error"] < 1e-6
    assert alignment.left_out == 0


def test_a_loop_whose_points_disagree_is_left_out() -> None:
    windows = [*along(20, 8, 4), [0, 1, 2, 3, 16, 17, 18, 19]]
    captures = Captures(20, windows)

    def view(number: int) -> View:
        seen = captures.view(number)
        rng = np.random.default_rng(0)
        return (
            seen if number < 4 else View(seen.extrinsics, rng.normal(size=seen.points.shape), seen.confidence)
        )

    alignment = align(Layout(windows, 4), view)
    assert alignment.left_out == 1
    for found, true in zip(alignment.worlds, captures.worlds, strict=False):
        np.testing.assert_allclose(matrix(found), matrix(true), atol=1e-6)


def test_neighbours_without_common_points_are_refused() -> None:
    windows = along(20, 8, 4)
    captures = Captures(20, windows)

    def view(number: int) -> View:
        seen = captures.view(number)
        return View(seen.extrinsics, np.full_like(seen.points, np.nan), seen.confidence)

    with pytest.raises(AlignmentError, match="windows 0 and 1"):
        align(Layout(windows, len(windows)), view)


def ring(count: int, wrong: float) -> tuple[list[Similarity], list[Similarity], list[Edge]]:
    """True worlds on a ring, those of a chain whose edges are a little wrong, and the edges with one that closes the ring."""
    turn = Similarity(1.0, Rotation.from_rotvec([0, 2 * np.pi / count, 0]).as_matrix(), np.array([1.0, 0, 0]))
    true = [Similarity.identity()]
    for _ in range(count - 1):
        true.append(true[-1] @ turn)
    edges = [Edge(i, i + 1, turn @ any_similarity(i, wrong, wrong), 1.0, 0.01) for i in range(count - 1)]
    chain = [true[0]]
    for edge in edges:
        chain.append(chain[-1] @ edge.moved)
    return true, chain, [*edges, Edge(0, count - 1, true[0].inverse() @ true[-1], 1.0, 0.01)]


def distance(found: list[Similarity], true: list[Similarity]) -> float:
    return float(
        np.mean([np.linalg.norm(f.translation - t.translation) for f, t in zip(found, true, strict=True)])
    )


def test_a_closed_loop_takes_drift_away() -> None:
    true, chain, edges = ring(24, 0.02)
    assert distance(solve(chain, edges), true) < 0.6 * distance(chain, true)


def test_a_wrong_loop_among_right_ones_does_little_harm() -> None:
    true, chain, edges = ring(24, 0.02)
    edges += [Edge(i, i + 11, true[i].inverse() @ true[i + 11], 1.0, 0.01) for i in (1, 4, 9, 12)]
    wrong = Edge(3, 15, any_similarity(7), 1.0, 0.01)
    good, bad = solve(chain, edges), solve(chain, [*edges, wrong])
    assert distance(good, true) < 0.35 * distance(chain, true)
    assert distance(bad, true) < 2 * distance(good, true)


def test_a_chain_stays_as_it_is() -> None:
    _, chain, edges = ring(5, 0.02)
    assert solve(chain, edges[:-1]) == chain
