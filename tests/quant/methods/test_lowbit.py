"""Rounding with data, other bases, calibration: against brute force, scipy and direct computation."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.norms import Norms
from vggtq.errors import ConfigError, QuantizationError
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.methods.clipping import (
    clipped_parameters,
    half_quadratic_objective,
    half_quadratic_parameters,
)
from vggtq.quant.methods.gptq import error_spread, gptq_codes
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.methods.scales import awq_scale, balance_scale, output_error, sinkhorn_scale, smooth_scale
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.numbers.basis import InputTransform
from vggtq.quant.numbers.hadamard import block_width, rotate
from vggtq.quant.numbers.input_codes import fake_quantize
from vggtq.quant.numbers.rounding import dequantize, quantization_parameters, round_to_codes
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Rounding, Transform
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.quantize import quantize_

SPECS = [
    Weights(bits=4, granularity="group", group_size=16),
    Weights(bits=4, granularity="group", group_size=24, symmetric=False),  # a short last group
    Weights(bits=3),
    Weights(bits=2, granularity="per_tensor", symmetric=False),
]
WHOLE = Layers(skip_first_last=False)


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, correlated inputs (400, C) whose channels differ in size, and their Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(-1, 1, columns)
    inputs = torch.randn(400, columns, generator=generator) @ mixing / columns**0.5
    return torch.randn(rows, columns, generator=generator), inputs, inputs.T @ inputs / 400


def nearest(rows: Tensor, spec: Weights) -> Tensor:
    scale, zero = quantization_parameters(rows, spec)
    return dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"w{s.bits} {s.granularity} {s.group_size}")
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_equals_rounding_one_column_at_a_time_with_the_inverse_recomputed(
    spec: Weights, act_order: bool
) -> None:
    """Optimal Brain Quantization as it is defined: after each column, invert what is left of the Hessian."""
    rows, _, gram = problem(6, 40)
    scale, zero = quantization_parameters(rows, spec)
    got = gptq_codes(rows, scale, zero, spec, error_spread(gram, 0.01, act_order))

    hessian = gram.double() + 0.01 * gram.double().diagonal().mean() * torch.eye(40, dtype=torch.float64)
    order = gram.diagonal().argsort(descending=True).tolist() if act_order else list(range(40))
    size = spec.group_size or 40
    weight, expected = rows.double().clone(), torch.zeros_like(got)
    for position, column in enumerate(order):
        rest = order[position:]
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        group = column // size if scale.shape[1] > 1 else 0
        s = scale[:, group].double()
        z = 0 if zero is None else zero[:, group]
        code = (torch.round(weight[:, column] / s) + z).clamp(spec.qmin, spec.qmax)
        error = weight[:, column] - (code - z) * s
        weight[:, rest] -= error[:, None] * inverse[0] / inverse[0, 0]
        expected[:, column] = code.int()
    assert (got == expected).float().mean() > 0.99, "float32 may fall on the other side of a half"


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 300])
def test_the_spread_of_errors_is_a_factor_of_the_inverse(columns: int) -> None:
    _, inputs, _ = problem(1, columns)
    gram = inputs.T @ inputs / 400
    spread = error_spread(gram, 0.01)
    hessian = gram.double() + 0.01 * gram.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    product = spread.inverse.double().T @ spread.inverse.double() @ hessian[spread.order][:, spread.order]
    assert torch.allclose(product, torch.eye(columns, dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.equal(spread.inverse, spread.inverse.triu())


def test_gptq_lies_between_nearest_and_the_best_codes_of_all() -> None:
    spec, ratios = Weights(bits=2), []
    for seed in range(20):
        rows, _, gram = problem(1, 5, seed)
        scale, _ = quantization_parameters(rows, spec)
        codes = torch.tensor(list(itertools.product(range(-1, 2), repeat=5)))
        best = min(output_error(rows, candidate * scale, gram) for candidate in codes)
        by_gptq = output_error(
            rows, gptq_codes(rows, scale, None, spec, error_spread(gram, 1e-6)) * scale, gram
        )
        assert by_gptq >= best * (1 - 1e-4)
        ratios.append((output_error(rows, nearest(rows, spec), gram) / best, by_gptq / best))
    plain, gptq = np.array(ratios).T
    excess = [np.exp(np.log(ratio).mean()) - 1 for ratio in (gptq, plain)]
    assert excess[0] < 0.3 * excess[1]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"w{s.bits} {s.granularity} {s.group_size}")
def test_gptq_more_than_halves_the_output_error_of_correlated_inputs(spec: Weights) -> None:
    rows, inputs, gram = problem(32, 64)
    packed = pack_weight(rows, spec, Rounding("gptq"), gram)
    error = (inputs @ (rows - packed.dequantize()).T).square().sum()
    assert error < 0.5 * (inputs @ (rows - nearest(rows, spec)).T).square().sum()


def test_gptq_survives_inputs_that_are_dead_or_dependent() -> None:
    rows, inputs, _ = problem(4, 16)
    inputs[:, 3] = 0
    inputs[:, 5] = inputs[:, 6]
    packed = pack_weight(rows, Weights(bits=4), Rounding("gptq"), inputs.T @ inputs)
    assert torch.isfinite(packed.dequantize()).all()
    with pytest.raises(QuantizationError, match="more calibration samples"):
        error_spread(torch.full((4, 4), -1.0))


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_are_clipped_by_the_error_that_each_group_brings_to_the_output(symmetric: bool) -> None:
    """Against every range of the grid, tried on the inputs themselves, one group at a time."""
    spec = Weights(bits=4, granularity="group", group_size=16, symmetric=symmetric)
    rows, inputs, gram = problem(6, 40)
    first, zero = quantization_parameters(rows, spec)
    found, _ = clipped_parameters(rows, spec, gram)
    for group, start in enumerate(range(0, 40, 16)):
        own = slice(start, start + 16)

        def error(s: Tensor, own: slice = own, group: int = group) -> Tensor:
            z = 0 if zero is None else zero[:, group, None]
            codes = (torch.round(rows[:, own] / s[:, None]) + z).clamp(spec.qmin, spec.qmax)
            return (inputs[:, own] @ (rows[:, own] - (codes - z) * s[:, None]).T).square().sum(0)

        best = torch.stack([error(first[:, group] * (1 - 0.6 * step / 40)) for step in range(41)]).amin(0)
        assert torch.allclose(error(found[:, group]), best, rtol=1e-3)
    rounded = [pack_weight(rows, spec, Rounding("mse"), g).dequantize() for g in (gram, None)]
    assert output_error(rows, rounded[0], gram) < output_error(rows, rounded[1], gram)


def test_wide_groups_are_clipped_by_the_power_of_their_inputs() -> None:
    spec, (rows, _, gram) = Weights(bits=3), problem(8, 300)
    powers = torch.diag(gram.diagonal())
    scale, _ = clipped_parameters(rows, spec, gram)
    assert torch.equal(scale, clipped_parameters(rows, spec, powers)[0])
    codes = round_to_codes(rows, scale, None, spec)
    assert output_error(rows, dequantize(codes, scale, None, spec), powers) < output_error(
        rows, nearest(rows, spec), powers
    )


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


@given(seed=st.integers(0, 10**6), index=st.integers(0, len(SPECS) - 1))
@settings(max_examples=40)
def test_searched_scales_never_do_worse_by_their_own_measure(seed: int, index: int) -> None:
    spec = SPECS[index]
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)) ** 3
    plain = quantization_parameters(rows, spec)
    clipped, solved = clipped_parameters(rows, spec), half_quadratic_parameters(rows, spec)

    def squared(scale: Tensor, zero: Tensor | None) -> float:
        rounded = dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
        return float((rows - rounded).square().sum())

    assert squared(*clipped) <= squared(*plain) * (1 + 1e-5)
    before, after = (half_quadratic_objective(rows, *p, spec) for p in (plain, solved))
    assert (after <= before * (1 + 1e-5)).all()
    assert (clipped[0] > 0).all() and (solved[0] > 0).all()


@pytest.mark.parametrize(("method", "share"), [("mse", 0.9), ("hqq", 0.95)])
def test_searched_scales_lose_less_on_heavy_tails(method: str, share: float) -> None:
    torch.manual_seed(0)
    spec = Weights(bits=4, granularity="group", group_size=64)
    rows = torch.distributions.StudentT(4.0).sample((64, 512))
    error = (rows - pack_weight(rows, spec, Rounding(method)).dequantize()).square().sum()
    assert error < share * (rows - nearest(rows, spec)).square().sum()


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


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16))


def show(model: nn.Module) -> None:
    model(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))


def test_layers_without_usable_inputs_are_named() -> None:
    model = net()
    with pytest.raises(QuantizationError, match=r"4: no calibration sample reaches"):
        Observer(model, ["4"], lambda m: None).of("4")
    with pytest.raises(QuantizationError, match=r"0: calibration inputs are NaN"):
        Observer(model, ["0"], lambda m: m(torch.full((2, 16), torch.nan))).of("0")
    with pytest.raises(QuantizationError, match="calibrate="):
        quantize_(model, Scheme(rounding=Rounding("gptq"), layers=WHOLE))


def test_gptq_keeps_the_function_of_a_network_better_than_nearest() -> None:
    exact = net()
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(2))
    errors = {}
    for method in ("nearest", "gptq"):
        model = net()
        scheme = Scheme(weights=Weights(bits=3), rounding=Rounding(method), layers=WHOLE)
        quantize_(model, scheme, calibrate=show)
        errors[method] = (model(x) - exact(x)).square().mean().item()
    assert errors["gptq"] < 0.7 * errors["nearest"]


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": Weights("float16", 16, granularity="none"), "rounding": Rounding("gptq")},
        {"weights": Weights("float16", 16, granularity="none"), "transform": Transform("awq")},
    ],
)
def test_float_weights_are_not_rounded_by_integer_methods(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="only int"):
        Scheme(**wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rounding("gtpq"), "did you mean gptq"),
        (lambda: Rounding(damping=0), "positive"),
        (lambda: Transform("smoth"), "did you mean smooth"),
        (lambda: Transform("smooth", alpha=2), "between 0 and 1"),
    ],
)
def test_options_of_methods_are_checked(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
