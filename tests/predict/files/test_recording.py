"""scene.rrd, read back by rerun, and the options that ask for it."""

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.prediction_cases import exact_prediction, photographs, write_model
from vggtq.artifact import read_header
from vggtq.artifact.header import Header
from vggtq.predict import pipeline, sources
from vggtq.predict.__main__ import main
from vggtq.predict.files import recording
from vggtq.predict.files.cloud import Cloud
from vggtq.predict.files.recording import write_rrd

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos")


def entities(path: Path) -> dict[str, Any]:
    """Rows of each entity, by its path: column name to values, in the order of the timeline."""
    found = {}
    for chunk in pytest.importorskip("rerun.chunk").RrdReader(path).stream().to_chunks():
        rows = chunk.to_record_batch().to_pylist()
        found[chunk.entity_path] = sorted(rows, key=lambda row: row.get("image", 0))
    return found


def depth_maps(rows: list[dict[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    """(S, H, W) float32"""
    buffers = [np.array(row["DepthImage:buffer"][0], np.uint8).view(np.float32) for row in rows]
    return np.stack(buffers).reshape(-1, *shape)


def test_the_recording_holds_points_cameras_and_maps(tmp_path: Path) -> None:
    _, prediction = exact_prediction(tmp_path / "photos")
    prediction.depth[0, 0, 0] = np.nan
    cloud = Cloud(prediction, 0, head=False)
    write_rrd(tmp_path / "scene.rrd", [("title", cloud)])
    found = entities(tmp_path / "scene.rrd")
    shape = prediction.inputs.size_hw
    for points in cloud.frames():
        (row,) = found[f"/world/points/{NAMES[points.frame]}"]
        np.testing.assert_array_equal(row["Points3D:positions"], points.xyz.astype(np.float32))
        colours = np.array(row["Points3D:colors"], np.uint32)
        np.testing.assert_array_equal(np.stack([colours >> s & 255 for s in (24, 16, 8)], -1), points.rgb)
    for i, name in enumerate(NAMES):
        (row,) = found[f"/world/cameras/{name}"]
        R, t = prediction.extrinsics[i, :, :3], prediction.extrinsics[i, :, 3]
        np.testing.assert_allclose(row["Transform3D:translation"][0], -R.T @ t, atol=1e-6)
        np.testing.assert_allclose(row["Transform3D:mat3x3"][0], R.T.ravel("F"), atol=1e-6)
        K = np.array(row["Pinhole:image_from_camera"][0]).reshape(3, 3).T
        np.testing.assert_allclose(K[:2, 2], prediction.intrinsics[i, :2, 2] + 0.5, rtol=1e-6)
        assert row["Pinhole:resolution"][0] == [shape[1], shape[0]]
    assert [row["image"] for row in found["/world/camera"]] == [0, 1, 2]
    depth = depth_maps(found["/world/camera/depth"], shape)
    np.testing.assert_array_equal(depth, np.nan_to_num(prediction.depth))
    confidence = depth_maps(found["/world/camera/confidence"], shape)
    np.testing.assert_array_equal(confidence, prediction.confidence)
    images = [np.array(row["Image:buffer"][0], np.uint8) for row in found["/world/camera/image"]]
    np.testing.assert_array_equal(images[2].reshape(*shape, 3), prediction.inputs.pixels(2))


def test_two_models_stand_side_by_side_with_the_difference_of_their_depth(
    tmp_path: Path, model: Path
) -> None:
    other = write_model(tmp_path / "other", bits=4)
    words = [f"model={model}", "images=photos", f"compare={other}", "out=out"]
    assert main(words) == 0
    found = entities(tmp_path / "out/scene.rrd")
    shape = (56, 84)
    depth = [depth_maps(found[f"/world/{key}/camera/depth"], shape) for key in ("model", "compare")]
    difference = depth_maps(found["/world/difference"], shape)
    np.testing.assert_array_equal(difference, np.abs(depth[1] - depth[0]))
    assert difference.max() > 0
    np.testing.assert_array_equal(depth[0], [np.load(tmp_path / f"out/depth/{x}.npy") for x in NAMES])
    report = json.loads((tmp_path / "out/prediction.json").read_text())
    assert [report[key]["digest"] for key in ("model", "compare")] == [
        read_header(file).digest for file in (model, other)
    ]
    assert report["files"]["scene.rrd"] == (tmp_path / "out/scene.rrd").stat().st_size
    views = blueprint(tmp_path / "out/scene.rrd")
    assert views["3D"] == {
        f"{key}: vggt_mini, {read_header(file).label}": f"world/{key}"
        for key, file in (("model", model), ("compare", other))
    }
    assert views["2D"] == {
        "model: image": "world/model/camera",
        "model: depth": "world/model/camera",
        "compare: depth": "world/compare/camera",
        "difference of depth": "world/difference",
    }


def blueprint(path: Path) -> dict[str, dict[str, str]]:
    """Origins of the views in 3D and in 2D, by their names."""
    reader = pytest.importorskip("rerun.chunk").RrdReader(path)
    views: dict[str, dict[str, str]] = {"3D": {}, "2D": {}}
    for chunk in reader.stream(store=reader.blueprints()[0]).to_chunks():
        for row in chunk.to_record_batch().to_pylist():
            if "ViewBlueprint:display_name" in row:
                (name,), (origin,) = row["ViewBlueprint:display_name"], row["ViewBlueprint:space_origin"]
                views[row["ViewBlueprint:class_identifier"][0]][name] = origin
    return views


def test_the_second_model_is_loaded_when_the_first_is_freed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[torch.nn.Module]] = []
    real = pipeline.load

    def load(file: str, device: torch.device) -> Any:
        assert all(module() is None for module in loaded)
        one = real(file, device)
        loaded.append(weakref.ref(one.module))
        return one

    monkeypatch.setattr(pipeline, "load", load)
    assert main([f"model={model}", "images=photos/a.png", f"compare={model}", "out=out"]) == 0
    assert len(loaded) == 2


def test_no_recording_is_written_unless_asked_for(tmp_path: Path, model: Path) -> None:
    assert main([f"model={model}", "photos/a.png", "out=out", "viewer=file"]) == 0
    assert (tmp_path / "out/scene.rrd").exists()
    assert main([f"model={model}", "photos/a.png", "out=out", "overwrite=true"]) == 0
    assert not (tmp_path / "out/scene.rrd").exists()


@pytest.mark.parametrize("words", [["viewer=file"], ["viewer=open"], ["compare=M"]])
def test_a_missing_extra_is_told_before_anything_is_read(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    monkeypatch.setattr(pipeline, "read_sources", lambda *_: pytest.fail("too late"))
    given = [word.replace("=M", f"={model}") for word in words]
    assert main([f"model={model}", "images=photos", "out=out", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: rerun is not installed") and "pip install 'vggtq[viewer]'" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["viewer=save"], "viewer=save is not one of none, file, open"),
        (["compare=gone.safetensors"], "gone.safetensors: no such file"),
        (["compare=vggt_mini"], "compare=vggt_mini is a configuration, not a model file"),
        (["compare=photos/a.png"], "not a safetensors file"),
        (["compare=M", "budget_gb=4"], "plans are made for one model, not for two; leave budget_gb out"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    given = [word.replace("=M", f"={model}") for word in words]
    assert main([f"model={model}", "images=photos", "out=out", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "pi3"}, "has another network"),
        ({"architecture": {}}, "has another network"),
        ({"image_size": 98}, "is made for images of 98 pixels, model=M for 84; give one size for both"),
    ],
)
def test_only_two_schemes_of_one_network_are_compared(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    change: dict[str, Any],
    message: str,
) -> None:
    real = read_header(model)

    def changed(file: str) -> Header:
        assert real.model is not None
        if file != "photos/a.png":
            return real
        return Header(**(vars(real) | {"model": real.model | change}))

    monkeypatch.setattr(sources, "read_header", changed)
    words = [f"model={model}", "images=photos", "compare=photos/a.png", "out=out"]
    assert main(words) == 1
    assert message.replace("=M", f"={model}") in capsys.readouterr().err


def test_a_size_of_the_command_serves_both_models(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = read_header(model)
    assert real.model is not None
    other = Header(**(vars(real) | {"model": real.model | {"image_size": 98}}))
    monkeypatch.setattr(sources, "read_header", lambda file: other if file == "photos/a.png" else real)
    options = pipeline.Options(
        model=str(model), images=["photos"], out="out", viewer="file", compare="photos/a.png", image_size=84
    )
    assert [source.key for source in sources.read_sources(options)] == ["model", "compare"]


def test_an_interrupted_recording_leaves_no_file(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "_map", interrupted)
    assert main([f"model={model}", "images=photos", "out=out", "viewer=file"]) == 130
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "scene.rrd" not in left and "prediction.json" not in left
    assert not any(name.endswith(".tmp") for name in left)


@pytest.mark.parametrize(("status", "told"), [(1, True), (None, False)])
def test_a_viewer_that_cannot_start_is_a_note(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    status: int | None,
    told: bool,
) -> None:
    started: list[list[str]] = []

    class Viewer:
        def __init__(self, command: list[str]) -> None:
            assert (tmp_path / "out/prediction.json").exists()
            started.append(command)

        def wait(self, seconds: float) -> int:
            if status is None:
                raise subprocess.TimeoutExpired("rerun", seconds)
            return status

    others = subprocess.Popen  # such as git, which the index is told the commit by

    def start(command: list[str], **options: Any) -> Any:
        return Viewer(command) if "rerun" in command else others(command, **options)

    monkeypatch.setattr(recording.subprocess, "Popen", start)
    assert main([f"model={model}", "photos/a.png", "out=out", "viewer=open"]) == 0
    assert started == [[sys.executable, "-m", "rerun", "out/scene.rrd"]]
    assert ("viewer did not start" in "".join(capsys.readouterr())) is told
