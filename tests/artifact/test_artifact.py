"""The quantized model as a file: what is loaded is what was saved, and what is not right is refused."""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vggtq
from helpers.runs import TINY, recorded
from helpers.small_vggt import inputs
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.schema import Config
from vggtq.config.validate import validated
from vggtq.errors import QuantizationError, WeightsError
from vggtq.export import export, main
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.prepare.streamed import streamed
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import Quantization, quantize_
from vggtq.quant.walk.stored import round_rest_, stored_bytes
from vggtq.terminal.progress import Steps

# One of each kind of numbers that a file holds; every scheme's file is written and read in test_run.py.
SCHEMES = {
    "bf16": "weights cast",
    "int4_group": "codes and scales of groups",
    "hqq": "zero points",
    "mixed_precision": "bits of layers",
    "fp8": "floats of 8 bits",
    "mxfp4": "scales that are exponents",
    "nvfp4": "scales of 8 bits and one of the whole weight",
    "w8a8_per_tensor": "inputs rounded with a zero point",
    "torch_dynamic": "kernels of torch",
    "smoothquant_w8a8_static": "ranges and scales of inputs",
    "sinq": "scales of columns",
    "quantvggt_w4a4": "a rotation",
    "svdquant_w4a4": "a low-rank branch",
}
THOROUGHLY = ("int4_group", "svdquant_w4a4")  # with each type for what is not quantized
ALL_TYPES = "scheme.layers.types=[Linear,MultiheadAttention,Conv2d,ConvTranspose2d]"
FIXTURES = Path(__file__).parents[1] / "fixtures"
NOWHERE = WeightsInfo("seed 0", "random", "0" * 64, random=True)


def config(*overrides: str) -> Config:
    return validated(compose([*TINY, *overrides]))


def quantized(settings_: Config) -> tuple[LoadedModel, nn.Module, Quantization]:
    loaded, twin, result = rounded(settings_)
    round_rest_(twin, settings_.rest)
    return loaded, twin, result


def rounded(settings_: Config) -> tuple[LoadedModel, nn.Module, Quantization]:
    loaded = settings_.model.load(torch.device("cpu"))
    twin = share_parameters(loaded.module)
    pictures = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    return loaded, twin, quantize_(twin, settings_.scheme, calibrate=lambda model: model(pictures))


def saved(settings_: Config, path: Path) -> tuple[LoadedModel, nn.Module]:
    loaded, twin, result = quantized(settings_)
    write(loaded, twin, result, settings_, path)
    return loaded, twin


def write(loaded: LoadedModel, twin: nn.Module, result: Quantization, settings_: Config, path: Path) -> None:
    identity = settings_.model.identity()
    artifact.save(twin, path, settings_.scheme, result, loaded.weights, identity, settings_.rest)


@pytest.fixture
def images() -> Tensor:
    return inputs("square")[0][0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model.safetensors"
    saved(config("scheme=int4_group", "group_size=16"), path)
    return path


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return shutil.copy(made, tmp_path / made.name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_loaded_model_predicts_what_the_saved_one_did(tmp_path: Path, scheme: str) -> None:
    settings_ = config(f"scheme={scheme}", ALL_TYPES, "scheme.layers.skip_first_last=false")
    loaded, whole, result = rounded(settings_)
    pictures = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    for rest in ("float32", "float16", "bfloat16") if scheme in THOROUGHLY else ("float16",):
        path, twin = tmp_path / f"{rest}.safetensors", copy.deepcopy(whole)
        round_rest_(twin, rest)
        write(loaded, twin, result, replace(settings_, rest=rest), path)
        again = vggtq.load(path)
        expected, got = loaded.predict(pictures, twin), again.predict(pictures)
        assert expected.keys() == got.keys()
        for name in expected:
            assert torch.equal(expected[name], got[name]), (rest, name)
        assert again.weights == loaded.weights
        assert again.header.scheme == settings_.scheme
        assert again.header.label == settings_.scheme.label


@pytest.mark.parametrize(
    ("bits", "rest"), [("2", "float16"), ("3", "float32"), ("4", "float16"), ("8", "float32")]
)
def test_the_file_is_as_large_as_the_record_says(tmp_path: Path, bits: str, rest: str) -> None:
    path = tmp_path / "model.safetensors"
    settings_ = config(
        "scheme=int4_group", f"bits={bits}", f"rest={rest}", "scheme.weights.symmetric=false", ALL_TYPES
    )
    _, twin = saved(settings_, path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == stored_bytes(twin, getattr(torch, rest))


def test_any_reader_of_safetensors_finds_packed_codes_and_the_names_of_the_float_model(file: Path) -> None:
    tensors = load_file(file)
    model = config().model.skeleton()
    name = "aggregator.frame_blocks.0.attn.qkv"
    layer = model.get_submodule(name)
    assert tensors[f"{name}.codes"].dtype == torch.uint8
    assert tensors[f"{name}.codes"].shape == (layer.out_features, layer.in_features // 2)
    assert tensors[f"{name}.scale"].shape == (layer.out_features, layer.in_features // 16)
    floats = {key for key in tensors if not key.endswith((".codes", ".scale", ".zero_point"))}
    assert floats < set(model.state_dict())
    assert f"{name}.weight" not in tensors


def test_streaming_gives_the_same_file_as_quantizing_the_whole_model(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    checkpoint = tmp_path / "float.safetensors"
    model = config().model.load(torch.device("cpu")).module
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, checkpoint)
    settings_ = config(f"model.source={checkpoint}", "scheme=int4_group", "rest=float16", ALL_TYPES)
    saved(settings_, one)
    export(settings_, other, Steps())
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        [*TINY[1:], "model.track_head=true"],
        ["model=vggt_mini_outliers", "model.outlier_factor=8"],
    ],
    ids=["random weights, track head", "weights changed in memory"],
)
def test_weights_that_no_file_holds_are_streamed_too(tmp_path: Path, overrides: list[str]) -> None:
    settings_ = validated(compose([*overrides, "scheme=int8_dynamic"]))
    made = streamed(settings_, Steps())
    loaded, twin, result = quantized(settings_)
    assert made.weights == loaded.weights
    assert len(made.quantization.layers) == len(result.layers)
    path = tmp_path / "model.safetensors"
    made.save(path)
    pictures = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    got, expected = vggtq.load(path).predict(pictures), loaded.predict(pictures, twin)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


class Odd(nn.Module):
    """Shared weights, an attention, a transposed convolution and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(1, 2, 2, stride=2)
        self.register_buffer("offset", torch.arange(16.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x)) + self.offset
        y = self.attention(y, y, y, need_weights=False)[0]
        return self.up(y[:, None])


def test_layers_of_any_network_are_put_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, other = Odd().eval(), Odd().eval()
    scheme = Scheme(
        weights=Weights(bits=4, granularity="group", group_size=8),
        layers=Layers(types=["Linear", "MultiheadAttention", "ConvTranspose2d"], skip_first_last=False),
    )
    result = quantize_(net, scheme)
    path = tmp_path / "odd.safetensors"
    artifact.save(net, path, scheme, result, NOWHERE)
    assert "first.codes" in load_file(path) and "second.codes" not in load_file(path)
    layers = vggtq.load_into_(other, path).layers
    assert [layer.name for layer in layers] == [layer.name for layer in result.layers]
    x = torch.randn(2, 3, 16)
    with torch.inference_mode():
        assert torch.equal(net(x), other(x))
    with pytest.raises(WeightsError, match="load_into_"):
        vggtq.load(path)


def test_a_network_that_does_not_fit_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(WeightsError, match="another network"):
        vggtq.load_into_(Odd(), file)


@given(position=st.floats(0, 1, exclude_max=True), keep=st.booleans())
@settings(max_examples=40)
def test_a_changed_or_truncated_file_is_never_loaded(
    tmp_path_factory: pytest.TempPathFactory, position: float, keep: bool
) -> None:
    """keep: one byte is changed; otherwise the file ends there."""
    path = tmp_path_factory.mktemp("artifact") / "model.safetensors"
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    scheme = Scheme(layers=Layers(skip_first_last=False))
    artifact.save(net, path, scheme, quantize_(net, scheme), NOWHERE)
    content = bytearray(path.read_bytes())
    at = int(position * len(content))
    if keep:
        content[at] ^= 0x11
    path.write_bytes(content if keep else content[:at])
    with pytest.raises(WeightsError, match=path.stem):
        vggtq.load_into_(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), path)


def _rewritten(file: Path, **changes: str) -> Path:
    """The same tensors under other metadata."""
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    save_file(load_file(file), file, metadata | changes)
    return file


def test_foreign_files_are_refused_with_a_reason(tmp_path: Path, file: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file.*vggtq export"):
        vggtq.load(tmp_path / "absent.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, plain)
    with pytest.raises(WeightsError, match=r"not a quantized model.*vggtq export"):
        vggtq.load(plain)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        vggtq.load(tmp_path / "text.safetensors")
    with pytest.raises(WeightsError, match=r"artifact format 99.*reads 1 to 4"):
        vggtq.load(_rewritten(file, format_version="99"))


def test_a_file_of_the_first_version_is_still_read() -> None:
    """Written before activations had granularities and static ranges."""
    first, now = nn.Sequential(nn.Linear(8, 4)), nn.Sequential(nn.Linear(8, 4)).requires_grad_(False)
    layers = vggtq.load_into_(first, FIXTURES / "artifact_v1.safetensors").layers
    now[0].weight.copy_(torch.linspace(-1, 1, 32).view(4, 8))
    now[0].bias.copy_(torch.arange(4.0))
    scheme = Scheme(activations=Activations("dynamic"), layers=Layers(skip_first_last=False))
    expected = quantize_(now, scheme).layers
    assert [(layer.weights, layer.stored_bytes) for layer in layers] == [
        (layer.weights, layer.stored_bytes) for layer in expected
    ]
    x = torch.randn(5, 8)
    assert torch.equal(first(x), now(x))


@pytest.mark.parametrize(
    ("version", "label"),
    [
        (2, "W8A8 static per-channel symmetric, inputs per-tensor asymmetric"),
        (3, "W8A8 static per-channel symmetric SmoothQuant, inputs per-tensor asymmetric"),
    ],
)
def test_files_whose_recipe_has_removed_options_are_still_read(version: int, label: str) -> None:
    """Version 2 by observer=percentile, version 3 by static ranges per channel; both with keys of fine-tuning that are gone."""
    path = FIXTURES / f"artifact_v{version}.safetensors"
    net = nn.Sequential(nn.Linear(8, 4))
    vggtq.load_into_(net, path)
    stored = {name.removeprefix("0."): tensor.double() for name, tensor in load_file(path).items()}
    x = torch.linspace(-2, 2, 24).view(3, 8)
    inputs = x.double() / stored.get("input_scale", torch.ones(8))
    scale, zero = stored["activation_scale"], stored["activation_zero_point"]
    inputs = (((inputs / scale).round() + zero).clamp(0, 255) - zero) * scale
    weight = (stored["codes"] - 128) * stored["scale"]
    # Where the CPU's int8 products saturate, weights have 7 bits in them, or inputs: codes are off by one of 256 at most.
    (layer,) = (module for module in net.modules() if isinstance(module, QuantLinear))
    off = 1e-3
    if layer.notes:
        off = float(
            max((scale * weight.abs().sum(1)).max(), (stored["scale"] * inputs.abs().sum(1).max()).max())
        )
    torch.testing.assert_close(net(x).double(), inputs @ weight.T + stored["bias"], rtol=0, atol=off)
    assert artifact.read_header(path).label == label


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h["model"].update(family="os.system"), "cannot be built"),
        (lambda h: h["model"]["architecture"]["aggregator"].update(depth=10**9), "cannot be built"),
        (lambda h: h["model"]["architecture"]["dpt"].update(features=8), "another network"),
        (lambda h: h["scheme"].update(_target_="os.system"), "header"),
        (lambda h: h["layers"][0].update(name="nowhere"), "another network"),
        (lambda h: h["layers"][0]["weights"].update(bits=99), "header"),
        (lambda h: h.update(rest="object"), "header"),
        (lambda h: h["scheme"].update(name="better"), "digest"),
        (lambda h: h.pop("weights"), "header"),
    ],
)
def test_a_tampered_header_is_refused(file: Path, change: object, reason: str) -> None:
    with safe_open(file, "pt") as stream:
        header = json.loads(stream.metadata()["vggtq"])
    change(header)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=reason):
        vggtq.load(_rewritten(file, vggtq=json.dumps(header, sort_keys=True)))


def test_missing_and_additional_tensors_are_named(file: Path) -> None:
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(file)
    save_file(tensors | {"extra": torch.zeros(1)}, file, metadata)
    with pytest.raises(WeightsError, match="extra is unknown"):
        vggtq.load(file)
    del tensors["aggregator.camera_token"]
    save_file(tensors, file, metadata)
    with pytest.raises(WeightsError, match=r"aggregator\.camera_token is missing"):
        vggtq.load(file)


def test_a_rest_that_would_change_the_outputs_is_refused(tmp_path: Path) -> None:
    settings_ = config("scheme=int4_group")
    loaded, twin, result = quantized(settings_)
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="round_rest_"):
        artifact.save(twin, path, settings_.scheme, result, loaded.weights, rest="float16")
    assert list(tmp_path.iterdir()) == []
    before = loaded.module.aggregator.camera_token.clone()
    round_rest_(twin, "float16")
    assert torch.equal(loaded.module.aggregator.camera_token, before), "the float model shares its tensors"
    twin.aggregator.camera_token = nn.Parameter(torch.full_like(before, 1e6))
    with pytest.raises(QuantizationError, match=r"camera_token.*1e\+06.*rest=bfloat16"):
        round_rest_(twin, "float16")


def test_a_run_keeps_the_model_that_it_measured(tmp_path: Path) -> None:
    record = recorded(tmp_path, "scheme=int4_group", "group_size=16", "rest=float16", "save=true")
    path = tmp_path / record["artifact"]["file"]
    assert path.stat().st_size == record["artifact"]["file_bytes"]
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert record["size"]["stored_bytes"] == path.stat().st_size - header
    again = vggtq.load(path)
    assert again.header.digest == record["artifact"]["sha256"]
    assert again.weights.fingerprint == record["model"]["fingerprint"]
    recorded(tmp_path, "scheme=int4_group", "group_size=16", "rest=float16")
    assert not path.exists(), "the record no longer speaks of it"


def test_export_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "model.safetensors"
    assert main([*TINY, "scheme=int4_group", "group_size=16", f"out={out}"]) == 0
    assert vggtq.load(out).header.label == "INT4 group 16"
    assert main([*TINY, f"out={out}"]) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert main([*TINY, f"out={out}", "overwrite=true"]) == 0
    assert vggtq.load(out).header.scheme.name == "int8_symmetric"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_float_network_can_be_exported_to_compare_with(tmp_path: Path) -> None:
    out = tmp_path / "fp32.safetensors"
    assert main([*TINY, "scheme=fp32", f"out={out}"]) == 0
    loaded = vggtq.load(out)
    assert not loaded.header.layers
    given = validated(compose([*TINY, "scheme=fp32"])).model.load(torch.device("cpu"))
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    expected, found = given.predict(images), loaded.predict(images)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scheme=int4_group"], "out is missing; name the file"),
        (["out=model.bin"], r"try model\.safetensors"),
        (["out=model.safetensors", "scheme=int4"], "did you mean int4_group"),
        (["out=model.safetensors", "scheem=int4_group"], "did you mean scheme"),
        (["out=model.safetensors", "rest=half"], "rest=half is not one of"),
        (["out=model.safetensors", "model.source=absent.safetensors"], "no such weights file"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
