"""`vggtq bench windows`: errors of trajectories, and that windows are measured as they are predicted."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vggtq.bench import windows as bench
from vggtq.data.objects import Objects
from vggtq.machine.environment import environment
from vggtq.predict.windows.align import View
from vggtq.predict.windows.layout import Layout
from vggtq.predict.windows.options import Windows
from vggtq.predict.windows.similarity import Similarity


def test_a_moved_trajectory_has_no_error_and_a_wrong_one_has() -> None:
    scene = next(Objects(count=1, frames=12, size=[28, 28], camera_path="walk").scenes())
    assert scene.truth.extrinsics is not None
    true = scene.truth.extrinsics.numpy()
    world = Similarity(2.5, Rotation.from_rotvec([0.3, -1, 2]).as_matrix(), np.array([1.0, 2, 3]))
    found = bench.errors(world.cameras(true), scene, time.perf_counter())
    assert found["trajectory_error"] < 1e-9
    assert found["rotation_error_deg"] < 1e-4
    turned = true.copy()
    turned[:, :, :3] = Rotation.from_rotvec([0, 0, np.radians(3)]).as_matrix() @ true[:, :, :3]
    turned[:, :, 3] = (turned[:, :, :3] @ np.linalg.inv(true[:, :, :3]) @ true[:, :, 3:])[:, :, 0]
    assert bench.errors(turned, scene, 0)["rotation_error_deg"] == pytest.approx(3, abs=1e-6)


def test_the_whole_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "WALKS", {20: 1})
    monkeypatch.setattr(bench, "CUTS", (Windows(8),))
    device = torch.device("cpu")
    bench.windows(device, environment(device, 0), tmp_path)
    rows = json.loads((tmp_path / "windows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(bench.METHODS)
    assert all(0 < row["trajectory_error"] < 0.5 for row in rows)
    assert "with loops" in capsys.readouterr().out


def test_windows_of_one_unit_are_placed_by_one_camera() -> None:
    rng = np.random.default_rng(0)
    layout = Layout([[0, 1, 2], [1, 2, 3], [3, 2, 4]], 3)
    turns = Rotation.random(5, random_state=0).as_matrix()
    true = np.concatenate([turns, rng.normal(size=(5, 3, 1))], axis=-1)
    moved = [
        Similarity(1.0, turn, rng.normal(size=3)) for turn in Rotation.random(3, random_state=1).as_matrix()
    ]
    nothing = np.zeros((3, 1, 1))
    views = [
        View(world.inverse().cameras(true[list(images)]), nothing[..., None], nothing)
        for world, images in zip(moved, layout.windows, strict=True)
    ]
    placed = bench.by_one_camera(layout, views)
    for world, view, images in zip(placed, views, layout.windows, strict=True):
        expected = moved[0].inverse().cameras(true[list(images)])
        np.testing.assert_allclose(world.cameras(view.extrinsics), expected, atol=1e-9)
