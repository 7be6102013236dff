"""What is kept of a run's geometry comes back, small and without pickle."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from helpers.page_records import FRAMES, SIZE, outputs, preview, scene
from helpers.runs import recorded
from vggtq.data.scene import Scene
from vggtq.geometry import decode_pose, unproject_depth
from vggtq.records.preview import LEVELS, POINTS, Preview


def read(path: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["scenes"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def values(levels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.where(levels > LEVELS, np.nan, low + levels / LEVELS * (np.asarray(high) - low))


def test_depth_points_and_cameras_come_back_within_a_level(tmp_path: Path) -> None:
    preview(tmp_path, 0.3)
    ((said,), arrays) = read(tmp_path / "preview.safetensors")
    made = outputs(0.3)
    low, high = said["quantized"]["depth"]
    depth = values(arrays["0.quantized.depth"].astype(float), low, high)
    assert np.abs(depth - made["depth"][..., 0].numpy()).max() <= (high - low) / LEVELS
    extrinsics, intrinsics = decode_pose(made["pose_enc"].double(), SIZE)
    points = unproject_depth(made["depth"].double(), extrinsics, intrinsics).reshape(-1, 3).numpy()
    kept = values(arrays["0.quantized.points"].astype(float), *map(np.asarray, said["quantized"]["points"]))
    assert len(kept) == np.ceil(0.8 * FRAMES * SIZE[0] * SIZE[1])
    assert np.abs(kept[:, None] - points[None]).max(-1).min(1).max() < 1e-4
    camera = arrays["0.quantized.cameras"]
    assert np.allclose(camera[:, :12], extrinsics.flatten(1), atol=1e-6)
    assert np.allclose(camera[:, 12], SIZE[1] / 2 / 40) and np.allclose(camera[:, 13], SIZE[0] / 2 / 40)


def test_both_models_show_the_same_pixels_whatever_the_quantized_one_is_confident_of(tmp_path: Path) -> None:
    other = outputs(0.1) | {"world_points_conf": torch.zeros(FRAMES, *SIZE)}
    for name, quantized in (("one", outputs(0.1)), ("two", other)):
        kept = Preview()
        kept.add(scene(), outputs(0.0), quantized)
        kept.write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_scene_of_large_images_stays_below_300_kb(tmp_path: Path) -> None:
    size, frames = (518, 518), 9
    images = torch.rand(frames, 3, *size)
    made = {
        "depth": torch.rand(frames, *size, 1) + 1,
        "pose_enc": torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1.0, 1.0]]).repeat(frames, 1),
    }
    kept = Preview()
    kept.add(Scene("large", images), made, made)
    kept.write(tmp_path / "preview.safetensors")
    ((said,), arrays) = read(tmp_path / "preview.safetensors")
    assert (tmp_path / "preview.safetensors").stat().st_size < 300_000
    assert said["frames"] == [0, 3, 5, 8] and len(arrays["0.color"]) == 4 * POINTS


def test_values_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    broken = outputs(0.1)
    broken["depth"][0, 0, 0] = float("nan")
    kept = Preview()
    kept.add(scene(), outputs(0.0), broken)
    kept.write(tmp_path / "preview.safetensors")
    (_, arrays) = read(tmp_path / "preview.safetensors")
    assert (arrays["0.quantized.depth"] > LEVELS).sum() == 1 and arrays["0.quantized.depth"][0, 0, 0] > LEVELS


def test_without_depth_nothing_is_kept_and_an_older_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "preview.safetensors"
    path.touch()
    kept = Preview()
    kept.add(scene(), {"pose_enc": torch.zeros(FRAMES, 9)}, {})
    assert kept.write(path) is None and not path.exists()


def test_a_run_keeps_as_many_scenes_as_asked_and_a_failing_one_none(tmp_path: Path) -> None:
    record = recorded(tmp_path, "dataset=rooms", "scenes=3", "frames=2", "preview_scenes=2")
    (said, arrays) = read(tmp_path / record["preview"])
    assert [scene["name"] for scene in said] == [scene["name"] for scene in record["dataset"]["scenes"][:2]]
    assert (arrays["1.reference.depth"] != arrays["1.quantized.depth"]).any()
    assert recorded(tmp_path / "none", "preview_scenes=0")["preview"] is None
    assert recorded(tmp_path, "scheme.layers.include=[nothing]")["preview"] is None
    assert not (tmp_path / "preview.safetensors").exists()
