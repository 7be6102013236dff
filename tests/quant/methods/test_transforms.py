"""Scales of channels and rotations: against scipy, the papers' formulas and direct computation."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.correlated import nearest, problem
from helpers.linears import WHOLE
from helpers.norms import Norms
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.methods.scales import awq_scale, balance_scale, output_error, sinkhorn_scale, smooth_scale
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.numbers.basis import InputTransform
from vggtq.quant.numbers.hadamard import block_width, rotate
from vggtq.quant.numbers.input_codes import fake_quantize
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Transform
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_


def test_sinqs_scale_makes_columns_equally_wide() -> None:
    rows = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    shrunk = rows * torch.logspace(-2, 0, 32) * torch.logspace(0, 1, 48)[:, None]
    balanced = shrunk * sinkhorn_scale(shrunk)
    balanced = balanced / balanced.square().mean(1, keepdim=True).sqrt()
    spread = balanced.square().mean(0).sqrt()
    assert spread.max() / spread.min() < 1.02, "bfloat16 digits"
    shrunk[:, 3] = 0
    assert torch.isfinite(sinkhorn_scale(shrunk)).all() and sinkhorn_scale(shrunk)[3] == 1


def test_sinq_saves_small_weights_that_face_outlier_inputs() -> None:
    spec = Weights(bits=4, granularity="group", group_size=64)
    factor = torch.ones(128)
    factor[[5, 70]] = 64
    rows = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) / factor
    gram = torch.diag(factor.square())
    scale = sinkhorn_scale(rows)
    rounded = pack_weight(rows * scale, spec).dequantize() / scale
    assert output_error(rows, rounded, gram) < 0.7 * output_error(rows, nearest(rows, spec), gram)


@pytest.mark.parametrize("columns", [64, 192, 12, 768, 1024, 2048])
def test_rotation_is_scipys_hadamard_and_its_own_inverse(columns: int) -> None:
    width = block_width(columns)
    x = torch.randn(3, columns, dtype=torch.float64)
    block = torch.from_numpy(scipy.linalg.hadamard(width) / np.sqrt(width))
    expected = (x.unflatten(1, (-1, width)) @ block).flatten(1)
    assert torch.allclose(rotate(x, width), expected, rtol=0, atol=1e-12)
    assert torch.allclose(rotate(rotate(x, width), width), x, rtol=0, atol=1e-12)


@given(st.sampled_from([8, 32, 64]), st.sampled_from([1, 2, 16]), st.integers(0, 40))
def test_strided_blocks_complete_a_rotation_and_parts_make_the_whole(
    width: int, stride: int, tokens: int
) -> None:
    """H_ab = H_a ⊗ H_b; with 3 blocks side by side, and few enough bytes at a time that tokens are split."""
    x = torch.randn(2, tokens, 3 * width * stride, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        whole = rotate(x, width * stride)
        patch.setattr("vggtq.quant.numbers.hadamard.PART_BYTES", 5 * x.shape[-1] * 8)
        assert torch.allclose(rotate(rotate(x, stride), width, stride), whole, rtol=0, atol=1e-12)
    assert rotate(x.requires_grad_(), width, stride).requires_grad


@pytest.mark.parametrize("rotation", [0, 64])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_transform_changes_no_product(rotation: int, scaled: bool, first: bool) -> None:
    x, w = torch.randn(50, 192, dtype=torch.float64), torch.randn(30, 192, dtype=torch.float64)
    scale = torch.rand(192).add(0.1).to(torch.bfloat16).double() if scaled else None
    transform = InputTransform(scale, rotation, rotation_first=first)
    assert (transform.original(transform.weight(w)) - w).abs().max() < 1e-12
    assert (transform.inputs(x) @ transform.weight(w).T - x @ w.T).abs().max() < 1e-9
    assert (transform.gram(x.T @ x) - transform.inputs(x).T @ transform.inputs(x)).abs().max() < 1e-9


def test_smoothquants_scale_is_the_papers() -> None:
    rows, inputs, gram = problem(8, 16)
    statistics = InputStatistics(gram, inputs.abs().mean(0), inputs.abs().amax(0), len(inputs))
    expected = inputs.abs().amax(0) ** 0.7 / rows.abs().amax(0) ** 0.3
    got = smooth_scale(rows, statistics, 0.7)
    assert torch.allclose(got / got[0], expected / expected[0], rtol=0.02), "bfloat16 digits"
    assert torch.equal(got, got.half().float()), "exact in half precision"


def test_the_balanced_scale_is_the_best_one_for_evenly_spread_errors() -> None:
    """Against the product of the two sums for other scales, and against the error of the layer itself."""
    rows, inputs, gram = problem(24, 64)
    rows[0, ::3] *= 20  # a maximum that says little about the channel
    statistics = InputStatistics(gram, inputs.abs().mean(0), inputs.abs().amax(0), len(inputs))
    best = balance_scale(rows, statistics).double()

    def product(s: Tensor) -> float:
        return float((inputs / s).square().sum() * (rows * s).square().sum())

    for seed in range(20):
        other = best * torch.randn(64, generator=torch.Generator().manual_seed(seed)).mul(0.2).exp()
        assert product(best) < product(other)
    assert torch.equal(best, best.half().double()), "exact in half precision"

    def error(s: Tensor) -> float:
        transform = InputTransform(s.float(), 64)
        rounded = (
            fake_quantize(transform.inputs(inputs), Activations("dynamic", 4)) @ transform.weight(rows).T
        )
        return float((rounded - inputs @ rows.T).square().sum())

    assert error(best) < error(smooth_scale(rows, statistics, 0.5)) < error(torch.ones(64))


def test_awq_finds_the_scale_that_a_search_on_the_inputs_finds() -> None:
    spec = Weights(bits=4, granularity="group", group_size=16)
    rows, inputs, _ = problem(24, 32, seed=3)
    statistics = InputStatistics.empty(32, torch.device("cpu"))
    statistics.update(inputs[:100])
    statistics.update(inputs[100:])
    scale = awq_scale(rows, statistics, lambda w: nearest(w, spec))
    assert scale is not None

    def error(s: Tensor) -> float:
        return float((inputs @ (rows - nearest(rows * s, spec) / s).T).square().sum())

    mean = inputs.abs().mean(0)
    grid = [mean ** (step / 20) for step in range(21)]
    grid = [(s / s.log().mean().exp()).to(torch.bfloat16).float() for s in grid]
    assert error(scale) == pytest.approx(min(map(error, grid)), rel=1e-3)
    assert error(scale) < error(torch.ones(32))


def test_statistics_are_those_of_all_inputs_at_once() -> None:
    x = torch.randn(7, 5, 12)
    statistics = InputStatistics.empty(12, torch.device("cpu"))
    for part in x.split(2):
        statistics.update(part)
    rows = x.reshape(-1, 12)
    assert torch.allclose(statistics.gram, rows.T @ rows / 35, atol=1e-5)
    assert torch.allclose(statistics.mean_abs, rows.abs().mean(0))
    assert torch.equal(statistics.largest, rows.abs().amax(0))
    assert statistics.rows == 35


def test_scales_behind_a_rotation_are_those_of_rotated_channels() -> None:
    """QuantVGGT's order: what smoothing sees are max|x H| and max|W H|; a channel that was large is spread by then."""
    rows, inputs, _ = problem(24, 64)
    inputs[:, 7] *= 50
    layer = nn.Sequential(nn.Linear(64, 24, bias=False)).requires_grad_(False)
    layer[0].weight.copy_(rows)
    hadamard = torch.from_numpy(scipy.linalg.hadamard(64) / 8).float()
    x, w = inputs.float() @ hadamard, rows.float() @ hadamard
    expected = (x.abs().amax(0) / w.abs().amax(0)).sqrt()
    scheme = Scheme(transform=Transform("smooth", hadamard=True, first="hadamard"), layers=WHOLE)
    quantize_(layer, scheme, calibrate=[inputs.float()])
    scale = layer[0].transform.scale
    assert torch.allclose(scale / scale[0], expected / expected[0], rtol=0.02), "bfloat16 digits"
    assert scale.amax() / scale.amin() < 4
    before = (inputs.abs().amax(0) / rows.abs().amax(0)).sqrt()
    assert before.amax() / before.amin() > 4


@pytest.mark.parametrize("hadamard", [False, True])
def test_scales_go_into_norms_where_the_model_declares_them_and_change_nothing(hadamard: bool) -> None:
    torch.manual_seed(0)
    model = Norms().double()
    x = torch.randn(3, 10, 64, dtype=torch.float64)
    expected, gain = model(x), model.block.norm1.weight.detach().clone()
    # 16 bits stand for the float weight: what is left is the error of the transform, and 2^-15 of the largest weight.
    scheme = Scheme(weights=Weights(bits=16), transform=Transform("smooth", hadamard=hadamard), layers=WHOLE)
    quantize_(model, scheme, calibrate=lambda m: m(x))
    assert (model(x) - expected).abs().max() < 2e-3
    layers = {name: m for name, m in model.named_modules() if isinstance(m, TransformedLinear)}
    scaled = {name for name, layer in layers.items() if layer.transform.scale is not None}
    assert scaled == {"block.attn.proj", "block.mlp.fc2", "last"}
    assert not torch.equal(model.block.norm1.weight, gain)
    assert (set(layers) - scaled == {"block.attn.qkv", "block.mlp.fc1"}) is hadamard


def test_smoothing_saves_w8a8_from_outlier_channels() -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(256, 64)
    x[:, 5] *= 200
    exact, errors = layer(x), {}
    for scale in ("none", "smooth"):
        model = nn.Sequential(nn.Linear(64, 64))
        model.load_state_dict(layer.state_dict())
        scheme = Scheme(activations=Activations("dynamic"), transform=Transform(scale), layers=WHOLE)
        quantize_(model, scheme, calibrate=lambda m: m(x))
        errors[scale] = (model(x) - exact).square().mean().item()
    assert errors["smooth"] < 0.25 * errors["none"]  # weights have 7 bits in the product with AVX2
