"""`vggtq predict windows.frames=N`, with the embedded model on a rendered walk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.family import OVERRIDES
from helpers.prediction_cases import photographs, write_model
from vggtq import Scheme, Weights, quantize_
from vggtq.artifact.read import load
from vggtq.artifact.write import save
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.objects import Objects
from vggtq.models.network import Network
from vggtq.predict.__main__ import main
from vggtq.predict.windows.features import features


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """24 images; the fixture's folder has a model file too."""
    write_model(tmp_path)
    scene = next(Objects(count=1, frames=24, size=[84, 84], camera_path="walk").scenes())
    (tmp_path / "walk").mkdir()
    for number, image in enumerate(scene.images):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"walk/{number:02d}.png")
    assert scene.truth.extrinsics is not None
    np.save(tmp_path / "truth.npy", scene.truth.extrinsics.numpy())
    return tmp_path


def centres(poses: np.ndarray) -> np.ndarray:
    return np.asarray(-np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3]))


@pytest.mark.parametrize("points", ["depth", "head"])
def test_windows_become_one_world(walk: Path, points: str) -> None:
    command = [f"model={walk}/m.safetensors", f"images={walk}/walk", f"out={walk}/out", "device=cpu"]
    assert main([*command, "windows.frames=8", "windows.overlap=4", f"points={points}"]) == 0
    index = json.loads((walk / "out/prediction.json").read_text())
    assert (index["windows"]["windows"], index["windows"]["overlap"]) == (5, 4)
    assert index["windows"]["median_error"] < 0.05
    cameras = json.loads((walk / "out/cameras.json").read_text())["images"]
    found = centres(np.array([camera["w2c"] for camera in cameras]))
    true = centres(np.load(walk / "truth.npy"))
    from skimage.transform import SimilarityTransform

    moved = SimilarityTransform.from_estimate(found, true)(found)
    assert np.sqrt(((moved - true) ** 2).sum(1).mean()) < 0.1 * np.linalg.norm(np.ptp(true, axis=0))
    assert len(list((walk / "out/depth").glob("*.npy"))) == 24


def test_few_images_need_no_windows(tmp_path: Path) -> None:
    write_model(tmp_path)
    photographs(tmp_path / "photos")
    command = [f"model={tmp_path}/m.safetensors", f"images={tmp_path}/photos", "device=cpu"]
    assert main([*command, f"out={tmp_path}/one", "windows.frames=8"]) == 0
    assert main([*command, f"out={tmp_path}/two"]) == 0
    assert "windows" not in json.loads((tmp_path / "one/prediction.json").read_text())
    assert (tmp_path / "one/cameras.json").read_text() == (tmp_path / "two/cameras.json").read_text()


def test_features_are_those_of_the_last_block_of_the_patch_embed(walk: Path) -> None:
    module = load(walk / "m.safetensors").module
    assert isinstance(module, Network)
    images = torch.rand(11, 3, 84, 84)
    seen: list[torch.Tensor] = []
    last = module.get_submodule("aggregator.patch_embed.blocks.1")
    last.register_forward_hook(lambda *call: seen.append(call[2]))
    found = features(module, images, torch.device("cpu"))
    tokens = torch.cat([part.reshape(-1, 41, part.shape[-1]) for part in seen])
    np.testing.assert_allclose(found, tokens[:, 5:].mean(1).numpy(), atol=1e-6)


@pytest.mark.parametrize("family", OVERRIDES)
def test_every_family_predicts_in_windows(family: str, tmp_path: Path) -> None:
    config = validated(compose(OVERRIDES[family])).model
    network, scheme = config.load(torch.device("cpu")), Scheme("int8_symmetric", Weights(bits=8))
    quantization = quantize_(network.module, scheme, first_last=network.module.first_last_layers())
    file = tmp_path / "m.safetensors"
    save(network.module, file, scheme, quantization, network.weights, config.identity())
    side = config.image_size
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(9):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(
            tmp_path / f"photos/{number}.png"
        )
    command = [f"model={file}", f"images={tmp_path}/photos", f"out={tmp_path}/out", "device=cpu"]
    assert main([*command, "windows.frames=4", "windows.order=similar"]) == 0
    index = json.loads((tmp_path / "out/prediction.json").read_text())
    assert index["windows"]["order"] == "similar"
    assert len(json.loads((tmp_path / "out/cameras.json").read_text())["images"]) == 9
