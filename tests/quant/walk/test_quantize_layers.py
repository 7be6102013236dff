"""What quantized layers of any module compute, and how many bytes they take in files and in memory."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.any_module import ALL, CONVS, Net
from vggtq import Layers, Scheme, Weights, quantize_
from vggtq.config.compose import compose, options
from vggtq.config.validate import validated
from vggtq.models.loading import share_parameters
from vggtq.quant.kernels.modules import conv_transpose_weight, weight_rows
from vggtq.quant.walk.stored import resident_bytes, stored_bytes, stored_tensors


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# Those that quantize_ carries out by itself; the others need images and VGGT's outputs.
SCHEMES = sorted({*options("scheme")} - {"qat", "qat_w3", "auto_mixed"})


def configured(*overrides: str) -> Scheme:
    return validated(compose(overrides)).scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_quantizes_any_module_to_the_size_of_its_file(
    scheme: str, net: Net, images: Tensor, tmp_path: Path
) -> None:
    recipe = configured(f"scheme={scheme}")
    recipe.mixed.sensitive = ["mlp.*"] if recipe.mixed.sensitive else []
    expected = net(images)
    before = stored_bytes(net)
    quantization = quantize_(net, recipe, calibrate=lambda model: model(images))
    error = (net(images) - expected).norm() / expected.norm()
    if scheme == "fp32":
        assert error == 0
        assert not quantization.layers
    else:
        assert 0 < error < 0.2
        assert stored_bytes(net) < before
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in stored_tensors(net).items()}, file)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - header == stored_bytes(net)


def test_four_bits_are_half_a_byte_in_memory_and_on_disk() -> None:
    model = nn.Sequential(nn.Linear(1024, 512, bias=False))
    scheme = Scheme(
        "int4", Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16"), layers=ALL
    )
    layer = quantize_(model, scheme).layers[0]
    groups = 512 * (1024 // 64)
    assert layer.stored_bytes == stored_bytes(model) == groups * (32 + 2)
    assert (
        layer.resident_bytes == resident_bytes(model) <= groups * (32 + 4)
    )  # fbgemm's rows have a bias as well
    held = sum(
        t.numel() * t.element_size() for m in model.modules() for t in m._buffers.values() if t is not None
    )
    assert held == layer.resident_bytes


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_output_error_is_bounded_by_the_steps(bits: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32)).requires_grad_(False)
    x = torch.randn(10, 64)
    expected = model(x)
    step = model[0].weight.abs().amax() / (2 ** (bits - 1) - 1)
    quantize_(model, Scheme("w", Weights(bits=bits, granularity="per_tensor"), layers=ALL))
    bound = x.abs().sum(1, keepdim=True) * step / 2
    assert ((model(x) - expected).abs() <= bound * 1.0001 + 1e-5).all()


def test_convolutions_are_quantized_per_output_channel(net: Net, images: Tensor) -> None:
    expected = copy.deepcopy(net)
    for conv, axes in ((expected.conv, (1, 2, 3)), (expected.up, (0, 2, 3))):
        scale = conv.weight.abs().amax(axes, keepdim=True) / 127
        conv.weight.copy_(torch.round(conv.weight / scale) * scale)
    quantization = quantize_(net, Scheme("c", layers=CONVS))
    assert [(layer.name, layer.type, layer.backend) for layer in quantization.layers] == [
        ("conv", "Conv2d", "blocked_conv"),
        ("up", "ConvTranspose2d", "blocked_conv"),
    ]
    torch.testing.assert_close(net(images), expected(images))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_come_back_from_rows(groups: int) -> None:
    conv = nn.ConvTranspose2d(4, 6, (2, 3), groups=groups)
    rows = weight_rows(conv.weight, transposed=True, groups=groups)
    assert rows.shape == (6, 4 // groups * 6)
    assert torch.equal(conv_transpose_weight(rows, tuple(conv.weight.shape), groups), conv.weight)
    # Row o holds exactly what reaches output channel o: an input of ones through it sums the row's own weights.
    ones = torch.ones(1, 4, 1, 1)
    sums = nn.functional.conv_transpose2d(ones, conv.weight, groups=groups).sum((0, 2, 3))
    torch.testing.assert_close(rows.sum(1), sums)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_attention_keeps_its_interface(need_weights: bool, batch_first: bool, cross: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(16, 4, batch_first=batch_first)}
    ).requires_grad_(False)
    q, k = torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    inputs = (q, k, k) if cross else (q, q, q)
    mask = torch.triu(
        torch.ones(3 if not batch_first else 5, 3 if not batch_first else 5, dtype=torch.bool), 1
    )
    expected = model["attention"](*inputs, need_weights=need_weights, attn_mask=mask)
    names = [layer.name for layer in quantize_(model, Scheme("w16", Weights(bits=16), layers=ALL)).layers]
    out = model["attention"](*inputs, need_weights=need_weights, attn_mask=mask)
    assert names == ["attention.in_proj", "attention.out_proj"]
    torch.testing.assert_close(out[0], expected[0], rtol=1e-3, atol=1e-4)
    assert (out[1] is None) == (expected[1] is None)
    if need_weights:
        torch.testing.assert_close(out[1], expected[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("average", [False, True])
def test_attention_masks_padding_and_unbatched_inputs(average: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 4, batch_first=True)}).requires_grad_(False)
    x, padding = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    calls = [
        ((x, x, x), {"key_padding_mask": padding, "average_attn_weights": average}),
        ((x, x, x), {"attn_mask": causal, "is_causal": True, "need_weights": False}),
        ((x, x, x), {"attn_mask": causal.expand(12, 5, 5)}),
        ((x[0], x[0], x[0]), {"average_attn_weights": average}),
        ((x[0], x[1], x[1]), {"key_padding_mask": padding[1]}),
    ]
    expected = [model["attention"](*inputs, **extra) for inputs, extra in calls]
    quantize_(model, Scheme(weights=Weights(bits=16), layers=ALL))
    for (inputs, extra), (out, maps) in zip(calls, expected, strict=True):
        got, got_maps = model["attention"](*inputs, **extra)
        torch.testing.assert_close(got, out, rtol=1e-3, atol=1e-3)
        assert (got_maps is None) == (maps is None)
        if maps is not None:
            torch.testing.assert_close(got_maps, maps, rtol=1e-3, atol=1e-3)


def test_float_parameters_are_shared_not_copied(net: Net, images: Tensor) -> None:
    twin = share_parameters(net)
    addresses = {name: tensor.data_ptr() for name, tensor in net.named_parameters()}
    expected = net(images)
    quantize_(twin, Scheme(layers=Layers(exclude=["mlp.0"])))
    for name in ("conv.weight", "conv.bias", "norm.weight", "mlp.0.weight", "attention.in_proj_bias"):
        owner = stored_tensors(twin).get(name) if "in_proj" not in name else twin.attention.in_proj.bias
        assert owner is not None
        assert owner.data_ptr() == addresses[name]
    assert torch.equal(net(images), expected), "the original must stay whole"
    assert not torch.equal(twin(images), expected)


@pytest.mark.parametrize("scheme", ["int8_dynamic", "int8_symmetric"])
def test_tied_weights_count_once_in_the_file_and_for_each_layer_in_memory(scheme: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    layers = quantize_(model, configured(f"scheme={scheme}", "scheme.layers.skip_first_last=false")).layers
    assert stored_bytes(model) == 64 * 64 + 64 * 4
    assert 2 * 64 * 64 < resident_bytes(model) <= sum(layer.resident_bytes for layer in layers)
    assert set(stored_tensors(model)) == {"0.codes", "0.scale"}


@pytest.mark.parametrize("scheme", ["int8_dynamic", "fp16", "int4_group", "int8_asymmetric"])
def test_quantized_models_can_be_copied_pickled_and_cast(scheme: str, net: Net, images: Tensor) -> None:
    quantize_(net, configured(f"scheme={scheme}"))
    expected = net(images)
    assert torch.equal(copy.deepcopy(net)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), expected)
    kept = net.state_dict()
    assert {name for name in stored_tensors(net) if "mlp" in name} <= set(kept)
    net.mlp.half()
    for tensor in stored_tensors(net.mlp).values():
        assert tensor.dtype in (torch.uint8, torch.float16) or tensor.shape[1:] != ()
    assert stored_tensors(net)["mlp.0.codes"].equal(kept["mlp.0.codes"])
    assert all(torch.equal(t, kept[n]) for n, t in stored_tensors(net).items() if n.endswith("scale"))


def test_layers_laid_out_for_the_cpu_refuse_to_move(net: Net) -> None:
    quantize_(net, configured("scheme=int8_dynamic"))
    with pytest.raises(RuntimeError, match="quantize_ the model after moving it"):
        net.to("meta")


def test_bfloat16_models_stay_bfloat16() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16)).bfloat16().requires_grad_(False)
    x = torch.randn(3, 32).bfloat16()
    expected = model(x)
    layer = quantize_(model, Scheme(layers=ALL)).layers[0]
    assert model(x).dtype == torch.bfloat16
    assert (model(x) - expected).norm() / expected.norm() < 0.02
    assert layer.stored_bytes == 32 * 16 + 16 * 4 + 16 * 2
    assert layer.float32_bytes == 4 * (32 * 16 + 16)


def test_group_sizes_that_do_not_divide_leave_a_shorter_tail() -> None:
    model = nn.Sequential(nn.Linear(100, 8, bias=False))
    scheme = Scheme(
        "g", Weights(bits=4, granularity="group", group_size=96, scale_dtype="float16"), layers=ALL
    )
    assert quantize_(model, scheme).layers[0].stored_bytes == 8 * 50 + 8 * 2 * 2


def test_a_whole_vggt_with_its_tracker_survives_every_width() -> None:
    from vggtq.models.vggt.initialize import initialize_
    from vggtq.models.vggt.network import build

    path = Path(__file__).parents[2] / "fixtures" / "vggt_small.json"
    model = build(json.loads(path.read_text())["config"])
    initialize_(model, 0, lively=True)
    generator = torch.Generator().manual_seed(0)
    images, points = torch.rand(2, 3, 56, 56, generator=generator), torch.tensor([[10.0, 20.0], [40.0, 5.0]])
    keys = ("pose_enc", "depth", "world_points", "track", "vis")
    with torch.inference_mode():
        expected = model(images, points)
        errors = {}
        for bits in (16, 8, 4):
            twin = share_parameters(model)
            names = [layer.name for layer in quantize_(twin, Scheme(weights=Weights(bits=bits))).layers]
            out = twin(images, points)
            errors[bits] = [float((out[k] - expected[k]).norm() / expected[k].norm()) for k in keys]
    assert {n.rpartition(".")[2] for n in names if ".attn." in n and "updateformer" in n} == {
        "in_proj",
        "out_proj",
    }
    assert "track_head.tracker.updateformer.flow_head" not in names
    assert max(errors[16]) < 1e-3
    assert all(a < b < c for a, b, c in zip(errors[16], errors[8], errors[4], strict=True)), errors
    assert max(errors[8]) < 0.05
