"""Every family through quantization, calibration, export and loading; one whole run, a prediction and a report of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.family import OVERRIDES
from helpers.runs import QUICK, recorded_of
from vggtq import load
from vggtq.config.compose import compose
from vggtq.config.validate import Job, composed
from vggtq.data.cameras.json_files import read_json
from vggtq.errors import ConfigError
from vggtq.predict.options import Options
from vggtq.predict.pipeline import predict
from vggtq.prepare.quantized import prepared, quantize
from vggtq.records.reading import read_record
from vggtq.report.rows.row import record_row
from vggtq.terminal.progress import Steps

SCHEMES = {
    "int8_symmetric": [],
    "int4_group": ["group_size=16"],
    "gptq_w4a16": ["group_size=16"],
    "awq": ["group_size=16"],
    "smoothquant_w8a8_static": [],
    "auto_mixed": ["group_size=16"],
}
SMALL = ["calibration.samples=1", "calibration.frames=2", "cache=null", "timing=off", "device=cpu"]
GIVEN = {
    "vggt": {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"},
    "pi3": {"extrinsics", "depth", "depth_conf", "world_points"},
    "pi3x": {"extrinsics", "depth", "depth_conf", "world_points"},
    "vggt_omega": {"pose_enc", "depth", "depth_conf"},
}


# VGGT's own runs and artifacts are tested scheme by scheme elsewhere; Pi3X adds a head and a branch to Pi3.
CASES = [(family, scheme) for family in ("pi3", "vggt_omega") for scheme in SCHEMES]
CASES += [("pi3x", "int8_symmetric"), ("pi3x", "gptq_w4a16"), ("pi3x", "auto_mixed"), ("vggt", "awq")]


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_a_quantized_network_comes_back_from_its_file(family: str, scheme: str, tmp_path: Path) -> None:
    config = composed([*OVERRIDES[family], f"scheme={scheme}", *SCHEMES[scheme], *SMALL])
    with Steps() as steps:
        source = prepared(config, steps)
        twin = quantize(source, steps, {})
    side = config.model.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    reference, quantized = source.model.predict(images), source.model.predict(images, twin.module)
    assert reference.keys() == quantized.keys() == GIVEN[family]
    for name, exact in reference.items():
        error = float((quantized[name] - exact).norm() / exact.norm())
        assert 0 < error < 0.5, (name, error)
    assert twin.quantization.calibration_passes <= 1  # block by block
    path = twin.save(tmp_path / "model.safetensors").path
    again = load(path).predict(images)
    assert all(torch.equal(again[name], t) for name, t in quantized.items())


def _run(family: str, folder: Path, *more: str) -> dict[str, Any]:
    scenes = ["dataset=objects", "scenes=1", "frames=2"]
    overrides = [*QUICK, *OVERRIDES[family], "scheme=int8_symmetric", *scenes, *SMALL, "save=true", *more]
    return recorded_of(Job(compose(overrides)), folder)


@pytest.fixture(scope="module", params=["pi3", "pi3x", "vggt_omega"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, _run(request.param, folder, "picture_frames=1", "save_predictions=true")


def test_a_record_has_what_the_network_gives(run: tuple[str, Path, Any]) -> None:
    family, folder, record = run
    assert record["status"] == "ok", record["error"]
    assert set(record["fidelity"]) == GIVEN[family] | {"pose"}
    assert ("fov_deg_mean" in record["fidelity"]["pose"]) == (family == "vggt_omega")
    assert record["fidelity"]["pose"]["rotation_deg_mean"] < 20
    assert ("points" in record["geometry"]["quantized"]) == (family != "vggt_omega")
    assert record["geometry"]["quantized"].keys() >= {"pose", "depth"}
    assert record["model"]["weights"] == "random" and record["model"]["licence"] is None
    assert {"comparison.png", "preview.safetensors", "predictions.safetensors"} <= {
        p.name for p in folder.iterdir()
    }


def test_a_row_means_over_what_there_is(run: tuple[str, Path, Any]) -> None:
    family, folder, record = run
    row = record_row(read_record(folder / "result.json"))
    tabled = GIVEN[family] - {"extrinsics"}
    errors = [record["fidelity"][name]["relative_error"] for name in tabled]
    assert row["mean_relative_error"] == pytest.approx(np.mean(errors))
    assert row["grade"] is not None and row["non_finite"] == 0


def test_a_prediction_of_photographs(run: tuple[str, Path, Any], tmp_path: Path) -> None:
    family, folder, _ = run
    (tmp_path / "photos").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    out = tmp_path / "out"
    options = Options(
        model=str(folder / "model.safetensors"), images=[str(tmp_path / "photos")], out=str(out), device="cpu"
    )
    predict(options, [])
    told = json.loads((out / "prediction.json").read_text("utf-8"))
    depth = np.load(out / "depth" / "0.npy")
    if family == "vggt_omega":
        assert told["settings"]["mode"] == "balanced" and depth.shape == (48, 80)
        assert told["points"]["source"] == "depth"
    else:
        assert told["settings"]["mode"] == "area" and depth.shape == (42, 70)
        assert told["points"]["source"] == "head" and any("field of view" in note for note in told["notes"])
    assert told["points"]["count"] > 0
    cameras = read_json(out / "cameras.json")
    assert cameras is not None and len(cameras.cameras) == 2


def test_images_that_a_patch_does_not_divide_are_refused_before_anything_loads() -> None:
    with pytest.raises(ConfigError, match="patch size of model=vggt_omega is 16"):
        composed([*OVERRIDES["vggt_omega"], "dataset=objects", "size=[56,56]"])
    with pytest.raises(ConfigError, match=r"dataset\.patch_size=14"):
        composed([*OVERRIDES["vggt_omega"], "dataset=images", "dataset.path=x", "dataset.patch_size=14",
                  "dataset.image_size=56"])  # fmt: skip
    with pytest.raises(ConfigError, match="image_size=60"):
        composed([*OVERRIDES["pi3"], "model.image_size=60"])
