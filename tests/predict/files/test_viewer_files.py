"""scene.glb and transforms.json: what other programs see of a prediction."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.prediction_cases import exact_prediction, photographs, room
from vggtq.data.cameras.camera import world_to_camera
from vggtq.data.cameras.json_files import read_json
from vggtq.data.cameras.lens import intrinsic_matrix
from vggtq.geometry import invert_se3
from vggtq.predict.files import gltf
from vggtq.predict.files.cameras_json import write_cameras_json, write_transforms_json
from vggtq.predict.files.cloud import Cloud, write_ply
from vggtq.predict.files.gltf import linear, write_glb
from vggtq.predict.result import Prediction

trimesh = pytest.importorskip("trimesh")

Y_UP = np.diag([1.0, -1.0, -1.0])  # from OpenCV's axes to glTF's
NAMES = ("a", "b", "c")


@pytest.fixture
def prediction(tmp_path: Path) -> Prediction:
    return exact_prediction(tmp_path / "photos")[1]


def document(path: Path) -> dict:
    """The JSON part, after checking the sizes of all parts."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    rest, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and 28 + length + rest == total and length % 4 == rest % 4 == 0
    found = json.loads(data[20 : 20 + length])
    assert found["buffers"] == [{"byteLength": rest}]
    assert sum(view["byteLength"] for view in found["bufferViews"]) == rest
    return found


def drawn(scene, name: str) -> tuple[np.ndarray, object]:
    """Vertices of a node in the world of the file, and its geometry."""
    transform, geometry = scene.graph[name]
    shape = scene.geometry[geometry]
    return trimesh.transform_points(np.asarray(shape.vertices), transform), shape


def test_the_points_of_the_scene_are_those_of_the_point_cloud_with_y_up(
    tmp_path: Path, prediction: Prediction
) -> None:
    cloud = Cloud(prediction, 30.0, head=False)
    write_glb(tmp_path / "scene.glb", prediction, cloud)
    write_ply(tmp_path / "points.ply", cloud)
    scene, ply = trimesh.load(tmp_path / "scene.glb"), trimesh.load(tmp_path / "points.ply")
    document(tmp_path / "scene.glb")
    parts = [drawn(scene, f"points/{name}") for name in NAMES if f"points/{name}" in scene.graph.nodes]
    xyz = np.concatenate([vertices for vertices, _ in parts])
    assert len(xyz) == len(ply.vertices) == len(cloud)
    np.testing.assert_allclose(xyz, ply.vertices @ Y_UP, atol=1e-12)
    colours = np.concatenate([shape.colors for _, shape in parts])[:, :3]
    np.testing.assert_allclose(colours, linear(np.asarray(ply.colors)[:, :3]) * 255, atol=1)


def test_the_cameras_of_the_scene_are_those_of_cameras_json(tmp_path: Path, prediction: Prediction) -> None:
    write_glb(tmp_path / "scene.glb", prediction, Cloud(prediction, 30.0, head=False))
    write_cameras_json(tmp_path / "cameras.json", prediction)
    scene = trimesh.load(tmp_path / "scene.glb")
    listed = json.loads((tmp_path / "cameras.json").read_text())["images"]
    for name, camera in zip(NAMES, listed, strict=True):
        vertices, _ = drawn(scene, f"cameras/{name}")
        w2c = np.array(camera["w2c"])
        np.testing.assert_allclose(vertices[0], Y_UP @ np.linalg.inv(w2c)[:3, 3], atol=1e-6)
        corners = (np.unique(vertices, axis=0) @ Y_UP) @ w2c[:3, :3].T + w2c[:3, 3]
        corners = corners[corners[:, 2] > prediction.camera_size / 2]
        pixels = corners @ np.array(camera["K"]).T
        seen = {(round(u), round(v)) for u, v in pixels[:, :2] / pixels[:, 2:] + 0.5}
        assert seen == {(x, y) for x in (0, camera["width"]) for y in (0, camera["height"])}


def test_one_can_look_through_the_cameras(tmp_path: Path, prediction: Prediction) -> None:
    write_glb(tmp_path / "scene.glb", prediction, Cloud(prediction, 0, head=False))
    found = document(tmp_path / "scene.glb")
    nodes = {node["name"]: node for node in found["nodes"]}
    for i, name in enumerate(NAMES):
        node = nodes[f"cameras/{name}"]
        pose = np.array(node["matrix"]).reshape(4, 4).T
        looks = invert_se3(room().extrinsics[0])[i].numpy()
        np.testing.assert_allclose(pose, looks @ np.diag([1.0, -1, -1, 1]), atol=1e-12)
        (child,) = node["children"]
        view = found["nodes"][child]
        assert view["name"] == f"view/{name}" and "matrix" not in view
        lens = found["cameras"][view["camera"]]["perspective"]
        height, width = prediction.inputs.size_hw
        assert np.tan(lens["yfov"] / 2) == pytest.approx(height / 2 / prediction.intrinsics[i, 1, 1])
        assert lens["aspectRatio"] == pytest.approx(
            width / height * prediction.intrinsics[i, 1, 1] / prediction.intrinsics[i, 0, 0]
        )


def test_a_scene_without_points_still_has_its_cameras(tmp_path: Path, prediction: Prediction) -> None:
    prediction.depth[:] = np.nan
    write_glb(tmp_path / "scene.glb", prediction, Cloud(prediction, 30, head=False))
    assert {node["name"] for node in document(tmp_path / "scene.glb")["nodes"]} == {
        *("world", "cameras"),
        *(f"{kind}/{name}" for kind in ("cameras", "view") for name in NAMES),
    }
    assert len(trimesh.load(tmp_path / "scene.glb").geometry) == 3


def test_a_scene_has_no_more_points_than_browsers_hold(
    tmp_path: Path, prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gltf, "MOST_POINTS", 100)
    write_glb(tmp_path / "scene.glb", prediction, Cloud(prediction, 0, head=False))
    scene = trimesh.load(tmp_path / "scene.glb")
    assert sum(len(drawn(scene, f"points/{name}")[0]) for name in NAMES) == 100


def test_linear_light_is_that_of_srgb() -> None:
    np.testing.assert_allclose(
        linear(np.array([0, 10, 128, 255], np.uint8)), [0, 0.0030353, 0.2158605, 1], atol=1e-6
    )


def test_transforms_json_comes_back_as_the_same_cameras(tmp_path: Path, prediction: Prediction) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    write_transforms_json(out / "transforms.json", prediction)
    write_cameras_json(out / "cameras.json", prediction)
    ours, theirs = (read_json(out / name) for name in ("cameras.json", "transforms.json"))
    assert ours is not None and theirs is not None and theirs.convention == "opengl_c2w"
    for camera, other in zip(ours.cameras, theirs.cameras, strict=True):
        assert camera.image == other.image and camera.size == other.size
        assert camera.lens is not None and other.lens is not None
        pose = world_to_camera(other.pose, theirs.convention)
        np.testing.assert_allclose(pose, camera.pose, atol=1e-12)
        np.testing.assert_allclose(intrinsic_matrix(other.lens), intrinsic_matrix(camera.lens), rtol=1e-14)
        with Image.open(other.image) as file:
            assert file.size == other.size


def test_a_point_of_the_cloud_is_seen_by_nerfstudio_s_camera_where_it_came_from(
    tmp_path: Path, prediction: Prediction
) -> None:
    photographs(tmp_path / "photos")
    write_transforms_json(tmp_path / "transforms.json", prediction)
    told = json.loads((tmp_path / "transforms.json").read_text())
    assert told["ply_file_path"] == "points.ply" and "applied_transform" not in told
    frame = told["frames"][1]
    points = list(Cloud(prediction, 0, head=False).frames())[1]
    x, y, z = (np.c_[points.xyz, np.ones(len(points.xyz))] @ np.linalg.inv(frame["transform_matrix"]).T).T[:3]
    assert (z < 0).all()
    u, v = frame["fl_x"] * x / -z + frame["cx"], frame["fl_y"] * -y / -z + frame["cy"]
    np.testing.assert_allclose(np.stack([u, v], -1), points.pixels + 0.5, atol=1e-4)
