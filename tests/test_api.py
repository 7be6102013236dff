"""The Python interface, as people call it: what works, and what the others are told."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vggtq
from vggtq.errors import ConfigError, DataError, DiskFull, QuantizationError, VggtqError, WeightsError
from vggtq.export import main as export_main


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 32)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x).relu())
        return y


X = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))


def test_what_stands_in_the_wrong_place_is_named_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"Weights\(8\): .*Weights\(bits=8\)"):
        vggtq.Weights(8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Scheme\(Weights…\): .*Scheme\(weights=Weights\(…\)\)"):
        vggtq.Scheme(vggtq.Weights(bits=4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scheme\.weights\.format=\['int'\] is not one of int"):
        vggtq.Weights(format=["int"])  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"quantize_\(model, scheme\): .*got Scheme and Net"):
        vggtq.quantize_(vggtq.Scheme(), Net())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 3, []])
def test_what_is_no_path_is_told(wrong: Any) -> None:
    for call in (vggtq.load, lambda path: vggtq.load_into_(Net(), path)):
        with pytest.raises(WeightsError, match=r"load.*is no path; give that of a model file"):
            call(wrong)
    net = Net()
    vggtq.quantize_(net, "int8_symmetric", first_last=[])
    with pytest.raises(WeightsError, match=r"save\(model, path\)"):
        vggtq.save(net, wrong)
    with pytest.raises(WeightsError, match="give a float torch module, got int"):
        vggtq.load_into_(3, "model.safetensors")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": 3}, "3 is no path"),
        ({"images": ".", "max_images": 0}, "max_images=0: at least 1"),
        ({"lang": "fr"}, "lang=fr is not one of"),
        ({"schemes": "int8_dynamicc"}, "did you mean int8_dynamic"),
        ({"schemes": None}, "name at least one"),
    ],
)
def test_what_compare_cannot_do_is_told_before_anything_runs(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        vggtq.compare(**arguments)


def test_a_scheme_may_be_called_by_its_name() -> None:
    named, given = Net(), Net()
    vggtq.quantize_(named, "int4_group", first_last=[])
    vggtq.quantize_(given, vggtq.scheme_of("int4_group"), first_last=[])
    assert torch.equal(named(X), given(X))
    assert vggtq.scheme_of("int4_group", group_size=32).weights.group_size == 32
    assert vggtq.scheme_of("int8_symmetric", bits=6).weights.bits == 6
    with pytest.raises(ConfigError, match=r"int4_grup.*did you mean int4_group"):
        vggtq.quantize_(Net(), "int4_grup")


def test_a_module_of_ones_own_is_saved_without_a_story_of_its_weights(tmp_path: Path) -> None:
    net = Net()
    vggtq.quantize_(net, "int4_group", first_last=[])
    saved = vggtq.save(net, tmp_path / "net.safetensors")
    assert saved.path.is_file()
    other = Net(seed=7)
    vggtq.load_into_(other, saved.path)
    assert torch.equal(other(X), net(X))
    with pytest.raises(WeightsError, match="load_into_"):
        vggtq.load(saved.path)
    with pytest.raises(WeightsError, match=r"Net was not quantized by vggtq\.quantize_"):
        vggtq.save(Net(), tmp_path / "float.safetensors")
    parts = Net()
    for name in ("a", "b"):
        vggtq.quantize_(parts, vggtq.Scheme(layers=vggtq.Layers(include=[name])), first_last=[])
    with pytest.raises(WeightsError, match="more than once"):
        vggtq.save(parts, tmp_path / "twice.safetensors")


@pytest.mark.parametrize(
    "scheme", ["int4_group", "int8_symmetric", "int8_dynamic", "int8_asymmetric", "hqq", "fp16"]
)
def test_state_dicts_go_from_one_quantized_module_to_another(scheme: str) -> None:
    first, second = Net(0), Net(1)
    for net in (first, second):
        vggtq.quantize_(net, scheme, first_last=[])
    assert not torch.equal(first(X), second(X))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(X), second(X))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_state_dicts_that_do_not_fit_say_why() -> None:
    net, other = Net(), Net()
    vggtq.quantize_(net, "int4_group", first_last=[])
    with pytest.raises(RuntimeError, match=r"a\.codes.*float state_dict.*before quantize_"):
        net.load_state_dict(Net().state_dict())
    vggtq.quantize_(other, "int8_symmetric", first_last=[])
    with pytest.raises(RuntimeError, match=r"a\.codes has shape .*another scheme"):
        net.load_state_dict(other.state_dict())


def test_representations_are_short() -> None:
    net = Net()
    quantization = vggtq.quantize_(net, "int4_group", first_last=[])
    assert repr(quantization) == "Quantization(2 layers quantized, 0 kept)"
    assert len(repr(net)) < 300


def test_dir_shows_the_interface() -> None:
    shown = dir(vggtq)
    assert {"compare", "load", "quantize_", "save", "scheme_of", "Scheme"} <= set(shown)
    assert not {"Any", "TYPE_CHECKING", "importlib", "terminal"} & set(shown)
    assert all(hasattr(vggtq, name) for name in shown)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mini.safetensors"
    assert export_main([f"out={path}", "scheme=int8_symmetric"]) == 0
    return path


def test_a_loaded_model_predicts_from_paths(model: Path, tmp_path: Path) -> None:
    loaded = vggtq.load(model)
    assert repr(loaded).startswith("QuantizedModel(vggt_mini, INT8") and len(repr(loaded)) < 120
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (60, 84, 3), np.uint8)).save(path)
    outputs = loaded.predict(paths)
    assert outputs["pose_enc"].shape[0] == 2 and outputs["depth"].shape[0] == 2
    named = loaded.predict([str(path) for path in paths])
    assert all(torch.equal(named[key], outputs[key]) for key in outputs)
    assert loaded.predict(str(paths[0]))["pose_enc"].shape[0] == 1
    with pytest.raises(DataError, match="no such image"):
        loaded.predict([tmp_path / "gone.png"])


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 2, 3, 28, 28), torch.zeros(3, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.uint8), 7, []],
)  # fmt: skip
def test_images_of_another_kind_are_refused(model: Path, images: Any) -> None:
    with pytest.raises(VggtqError, match=r"predict\(images\)|At least 1 image"):
        vggtq.load(model).predict(images)


def test_a_full_disk_names_the_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "full.safetensors"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vggtq.artifact.write.write_safetensors", full)
    assert export_main([f"out={out}", "scheme=int8_symmetric"]) == 1
    error = capsys.readouterr().err
    assert str(out) in error and "No space left on device" in error and "Traceback" not in error
    net = Net()
    vggtq.quantize_(net, "int4_group", first_last=[])
    with pytest.raises(DiskFull, match=r"full\.safetensors: No space left.*free some space"):
        vggtq.save(net, out)
