"""Static activations in a network: the pass that finds ranges, what comes back from a file, labels and records."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vggtq
from helpers.linears import WHOLE, net, static
from helpers.mixed_layers import Mixed
from helpers.norms import Norms
from helpers.runs import recorded
from vggtq import artifact
from vggtq.errors import ConfigError, QuantizationError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.quant.kernels.cpu.native_conv import NativeConv
from vggtq.quant.kernels.cpu.onednn_conv import OneDnnInt8Conv
from vggtq.quant.kernels.cpu.onednn_int8 import OneDnnInt8Linear, onednn_activation_bits
from vggtq.quant.kernels.modules import QuantConv, TransformedLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Transform
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import stored_bytes, stored_tensors

needs_onednn = pytest.mark.skipif(
    onednn_activation_bits() is None, reason="this torch has no oneDNN int8 product"
)


def samples(seed: int = 1) -> Tensor:
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))


def show(model: nn.Module) -> None:
    for part in samples().split(20):
        model(part)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_one_pass_finds_the_range_of_every_layer(observer: str, symmetric: bool) -> None:
    model, exact, x = net(), net(), samples(2)
    activations = static(observer=observer, symmetric=symmetric)
    result = quantize_(model, Scheme(activations=activations, layers=WHOLE), calibrate=show)
    assert result.calibration_passes == 1
    assert [layer.name for layer in result.layers] == ["0", "2", "4"]
    seen = samples()
    for entry, module in zip(result.layers, exact.requires_grad_(False)[::2], strict=True):
        assert entry.input_range is not None
        low, high = entry.input_range
        largest = float(seen.abs().max()) if symmetric else float(seen.max())
        assert largest * 0.5 < high <= largest * 1.02
        assert low == pytest.approx(-high) if symmetric else low >= float(seen.min()) * 1.02
        seen = nn.functional.gelu(module(seen))
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert (model(x) - exact(x)).norm() / exact(x).norm() < 0.03
    assert sum(layer.stored_bytes for layer in result.layers) == stored_bytes(model)
    total = sum(t.numel() * t.element_size() for t in stored_tensors(model).values())
    assert stored_bytes(model) == total


@pytest.mark.parametrize(
    "transform", [Transform("smooth"), Transform(hadamard=True), Transform("smooth", hadamard=True)]
)
def test_ranges_are_those_of_transformed_inputs(transform: Transform) -> None:
    torch.manual_seed(0)
    model = Norms().requires_grad_(False)
    x = torch.randn(3, 10, 64)
    scheme = Scheme(activations=static(), transform=transform, layers=WHOLE)
    quantize_(model, scheme, calibrate=lambda m: m(x))
    seen: dict[str, Tensor] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, TransformedLinear)}
    for name, layer in layers.items():
        layer.linear.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    model(x)
    assert seen
    for name, layer in layers.items():
        known = layer.linear.input_range
        assert known is not None
        # Found while tokens had scales of their own, so that other layers' rounding differs a little.
        assert float(known.scale) == pytest.approx(float(seen[name].abs().max()) / 127, rel=0.05)


@pytest.mark.parametrize("declared", [True, False], ids=["norms", "no norms"])
def test_static_ranges_of_divided_channels_survive_outliers(
    declared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not declared:
        monkeypatch.setattr(Norms, "norms_before", lambda self: {})
    errors = {}
    x = torch.randn(3, 10, 64, generator=torch.Generator().manual_seed(0))
    for transform in (Transform(), Transform("smooth", alpha=1)):
        torch.manual_seed(0)
        model, exact = Norms().requires_grad_(False), Norms().requires_grad_(False)
        model.block.norm1.weight[:3] *= 100
        model.block.attn.qkv.weight[:, :3] /= 100
        exact.load_state_dict(model.state_dict())
        scheme = Scheme(activations=static(), transform=transform, layers=WHOLE)
        result = quantize_(model, scheme, calibrate=lambda m: m(x))
        assert result.calibration_passes == (2 if scheme.transforms else 1)
        errors[transform.scale] = float((model(x) - exact(x)).square().mean())
        if scheme.transforms:
            assert isinstance(model.block.attn.qkv, TransformedLinear) is not declared
    assert errors["smooth"] < 0.1 * errors["none"]


def test_layers_that_no_sample_reaches_or_that_see_nan_are_named() -> None:
    scheme = Scheme(activations=static(), layers=WHOLE)
    with pytest.raises(QuantizationError, match="0: no calibration sample reaches"):
        quantize_(net(), scheme, calibrate=lambda m: None)
    with pytest.raises(QuantizationError, match="0: calibration inputs are NaN"):
        quantize_(net(), scheme, calibrate=lambda m: m(torch.full((2, 16), torch.nan)))
    with pytest.raises(QuantizationError, match="calibrate="):
        quantize_(net(), scheme)


MIXED = Scheme(
    activations=static(symmetric=False, observer="mse"),
    layers=Layers(types=["Linear", "MultiheadAttention", "Conv2d"], skip_first_last=False),
)


@needs_onednn
def test_attentions_convolutions_and_shared_weights_have_ranges_and_come_back_bit_for_bit(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval().requires_grad_(False), torch.randn(2, 3, 6, 6)
    exact = model(x)
    result = quantize_(model, MIXED, calibrate=lambda m: m(x))
    names = {"conv", "attention.in_proj", "attention.out_proj", "one", "other"}
    assert {layer.name for layer in result.layers if layer.input_range is not None} == names
    ranges = {layer.name: layer.input_range for layer in result.layers}
    assert ranges["one"] != ranges["other"]
    assert isinstance(model.conv, QuantConv) and isinstance(model.conv.rows, NativeConv | OneDnnInt8Conv)
    assert (model(x) - exact).norm() / exact.norm() < 0.05
    path = tmp_path / "mixed.safetensors"
    saved = artifact.save(model, path, MIXED, result, WeightsInfo("here", "random", "0" * 64, random=True))
    assert saved.stored_bytes == stored_bytes(model)
    again = Mixed().eval()
    restored = vggtq.load_into_(again, path)
    assert torch.equal(again(x), model(x))
    assert [layer.input_range for layer in restored.layers] == [layer.input_range for layer in result.layers]
    assert [layer.stored_bytes for layer in restored.layers] == [
        layer.stored_bytes for layer in result.layers
    ]
    copied = pack_weight(torch.randn(8, 16), Weights())
    layer = OneDnnInt8Linear(copied, None, static())
    layer.set_input_range(InputRange.between(-1, 1, 8, True))
    twin = type(layer)(*layer.__reduce__()[1])
    assert torch.equal(twin(torch.randn(3, 16).fill_(0.7)), layer(torch.randn(3, 16).fill_(0.7)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Activations("statc"), "did you mean static"),
        (lambda: Activations("dynamic", granularity="per_channel"), "dynamic activations are rounded per_token or per_tensor"),
        (lambda: static(granularity="per_token"), "use scheme.activations.mode=dynamic, or granularity=per_tensor"),
        (lambda: Activations("dynamic", granularity="per_tokn"), "did you mean per_token"),
        (lambda: Activations(symmetric=False), "with mode=none: float activations are not rounded"),
        (lambda: Activations(granularity="per_tensor"), "with mode=none"),
        (lambda: Activations("dynamic", observer="mse"), "only static activations are observed"),
        (lambda: static(observer="msee"), "did you mean mse"),
        (lambda: Activations("dynamic", clip=1.2), "clip=1.2: use a share between 0.3 and 1"),
        (lambda: static(clip=0.9), "only symmetric integers with dynamic scales are clipped"),
        (lambda: Activations("dynamic", symmetric=False, clip=0.9), "set scheme.activations.clip=1"),
        (lambda: static(observer="percentile"), "was removed; use scheme.activations.observer=mse"),
        (lambda: static(granularity="per_channel"), "was removed; scheme.transform.scale=smooth"),
        (lambda: Activations("static", format="float8_e4m3"), "use mode=dynamic granularity=null"),
    ],
)  # fmt: skip
def test_impossible_activations_name_the_remedy(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("activations", "label"),
    [
        (static(), "W8A8 static per-channel symmetric, inputs per-tensor"),
        (static(symmetric=False, observer="mse"), "W8A8 static per-channel symmetric, inputs per-tensor asymmetric MSE"),
        (Activations("dynamic", granularity="per_tensor"), "W8A8 dynamic per-channel symmetric, inputs per-tensor"),
        (Activations("dynamic", granularity="per_token"), "W8A8 dynamic per-channel symmetric"),
    ],
)  # fmt: skip
def test_labels_say_whose_granularity_it_is(activations: Activations, label: str) -> None:
    assert Scheme(activations=activations).label == label


def test_a_record_says_how_inputs_are_rounded(tmp_path: Path) -> None:
    record = recorded(tmp_path, "scheme=int8_static", "calibration.samples=2")
    assert record["status"] == "ok", record["error"]
    assert record["calibration"]["passes"] == 1
    activations = record["scheme"]["activations"]
    assert (activations["mode"], activations["granularity"]) == ("static", "per_tensor")
    assert all(low <= 0 <= high for low, high in (layer["input_range"] for layer in record["layers"]))
