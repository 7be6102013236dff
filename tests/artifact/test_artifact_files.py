"""The quantized model as a file: what is loaded is what was saved, also by earlier versions and for any network."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vggtq
from helpers.artifacts import NOWHERE, config, quantized, rounded, saved, write
from helpers.runs import TINY
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import WeightsError
from vggtq.export import export
from vggtq.prepare.streamed import streamed
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
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
