"""GPTQ, clipped ranges and searched scales: against brute force and direct computation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.correlated import nearest, problem
from helpers.linears import WHOLE, net
from vggtq.errors import ConfigError, QuantizationError
from vggtq.quant.methods.clipping import (
    clipped_parameters,
    half_quadratic_objective,
    half_quadratic_parameters,
)
from vggtq.quant.methods.gptq import error_spread, gptq_codes
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.methods.scales import output_error
from vggtq.quant.numbers.rounding import dequantize, quantization_parameters, round_to_codes
from vggtq.quant.scheme.methods import Rounding, Transform
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
