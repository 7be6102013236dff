"""Rounding in fine-tuning: values bit for bit, and gradients against differentiated surrogates."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helpers.finetuned import FOUR
from vggtq.quant.finetune.layers import LearnedWeight
from vggtq.quant.finetune.straight_through import rounded_inputs, rounded_linear, rounded_tokens
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_codes import fake_quantize
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.rounding import dequantize, quantization_parameters, round_to_codes
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.weights import Weights

SPECS = [
    Weights(bits=4),
    Weights(bits=3, granularity="group", group_size=24, symmetric=False),  # a short last group
    Weights(bits=4, granularity="group", group_size=16, scale_dtype="float16"),
    Weights(bits=2, granularity="per_tensor", symmetric=False),
]

by_numbers = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"w{s.bits} {s.granularity} {s.scale_dtype}"
)


def weight(spec: Weights, rows: int = 5, columns: int = 40) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight some of which lies outside the range, its scale and zero point."""
    exact = torch.randn(rows, columns, generator=torch.Generator().manual_seed(spec.bits))
    scale, zero = quantization_parameters(exact, spec)
    return exact, 0.6 * scale, zero


def rounded_weight(rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights) -> Tensor:
    """ŵ (R, C): its product with the unit matrix."""
    return rounded_linear(torch.eye(rows.shape[1], dtype=rows.dtype), rows, scale, zero, None, spec).T


@by_numbers
def test_values_are_those_of_rounding_bit_for_bit(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    expected = dequantize(round_to_codes(exact, scale, zero, spec), scale, zero, spec)
    assert torch.equal(rounded_weight(exact, scale, zero, spec), expected)
    product = rounded_linear(exact, exact, scale, zero, exact[:, 0], spec)
    assert torch.equal(product, F.linear(exact, expected, exact[:, 0]))


@by_numbers
def test_gradients_are_those_of_the_surrogate(spec: Weights) -> None:
    """LSQ's surrogate: rounding adds a constant. Differentiated numerically, in float64."""
    exact, scale, zero = weight(spec)
    exact, scale = exact.double().requires_grad_(), scale.double().requires_grad_()
    direction = torch.randn_like(exact)
    (rounded_weight(exact, scale, zero, spec) * direction).sum().backward()
    size = spec.group_size or exact.shape[1]

    def spread(parameter: Tensor) -> Tensor:
        return parameter.expand(exact.shape[0], -1).repeat_interleave(size, 1)[:, : exact.shape[1]]

    shift = 0 if zero is None else spread(zero)
    low, high = spec.qmin - shift, spec.qmax - shift

    def limited(steps: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(steps, torch.as_tensor(low)), torch.as_tensor(high))

    clipped = limited(exact.detach() / spread(scale.detach()))
    constant = clipped.round() - clipped

    def surrogate(w: Tensor, s: Tensor) -> Tensor:
        return ((limited(w / spread(s)) + constant) * spread(s) * direction).sum()

    epsilon, w, s = 1e-6, exact.detach(), scale.detach()
    assert exact.grad is not None and scale.grad is not None
    for parameter, grad in ((w, exact.grad), (s, scale.grad * (w.numel() / s.numel() * spec.qmax) ** 0.5)):
        for place in range(0, parameter.numel(), 3):
            change = torch.zeros_like(parameter).view(-1)
            change[place] = epsilon
            change = change.view_as(parameter)
            pair = [(w + k * change, s) if parameter is w else (w, s + k * change) for k in (1, -1)]
            numeric = (surrogate(*pair[0]) - surrogate(*pair[1])) / (2 * epsilon)
            assert grad.view(-1)[place] == pytest.approx(float(numeric), abs=1e-5)


@by_numbers
def test_products_pass_gradients_on_and_keep_no_rounded_weight(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    inputs, bias = torch.randn(7, 40, requires_grad=True), torch.randn(5, requires_grad=True)
    direction = torch.randn(7, 5)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        product = rounded_linear(inputs, exact, scale, zero, bias, spec)
    assert {t.data_ptr() for t in kept} == {inputs.data_ptr(), exact.data_ptr(), scale.data_ptr()}
    product.backward(direction)
    twins = [t.detach().clone().requires_grad_() for t in (inputs, bias)]
    F.linear(twins[0], rounded_weight(exact, scale, zero, spec), twins[1]).backward(direction)
    for leaf, twin in zip((inputs, bias), twins, strict=True):
        assert leaf.grad is not None and torch.allclose(leaf.grad, twin.grad, rtol=1e-5, atol=1e-5)


@by_numbers
def test_products_in_half_precision_have_gradients_in_single(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    grads = []
    for half in (False, True):
        leaves = [t.clone().requires_grad_() for t in (exact[:3], exact, scale, exact[:, 0])]
        inputs, rows, step, bias = leaves
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            product = rounded_linear(inputs, rows, step, zero, bias, spec)
        assert product.dtype == (torch.bfloat16 if half else torch.float32)
        product.sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for single, mixed in zip(*grads, strict=True):
        assert mixed is not None and mixed.dtype == torch.float32
        assert torch.linalg.vector_norm(mixed - single) < 0.02 * torch.linalg.vector_norm(single)


@pytest.mark.parametrize("clip", [1.0, 0.7])
def test_gradients_of_tokens_are_those_of_the_surrogate(clip: float) -> None:
    numbers = replace(FOUR, clip=clip)
    rows = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(6, 10, dtype=torch.float64)
    values = rounded_tokens(rows, numbers)
    assert torch.equal(values, fake_quantize(rows.detach(), numbers))
    (values * direction).sum().backward()

    def steps_of(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = clip * x.abs().amax(1, keepdim=True) / 7
        return (x / scale).clamp(-7, 7), scale

    steps, _ = steps_of(rows.detach())
    constant = steps.round() - steps
    assert ((steps.abs() == 7).sum() > 6) == (clip < 1), "some values saturate"

    def surrogate(x: Tensor) -> Tensor:
        steps, scale = steps_of(x)
        return ((steps + constant) * scale * direction).sum()

    expected = torch.autograd.functional.jacobian(surrogate, rows.detach())
    assert rows.grad is not None
    assert torch.allclose(rows.grad, expected, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_static_inputs_are_rounded_as_the_kernels_do_and_their_range_learns(symmetric: bool) -> None:
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    known = InputRange.between(-0.7, 1.5, 4, symmetric)  # some values saturate
    scale = known.scale.view(1, 1).clone().requires_grad_()
    rows.requires_grad_()
    values = rounded_inputs(rows, scale, known)
    assert torch.equal(values, known.round_trip(rows))
    values.sum().backward()
    low, high = known.ends
    assert rows.grad is not None and scale.grad is not None
    inside = (rows > low) & (rows < high)
    assert torch.equal(rows.grad, inside.float()) and not inside.all()
    steps = (rows / known.scale).detach()
    codes = (values / known.scale).detach()
    by_hand = (
        torch.where(inside, codes - steps, codes).sum() / (6 * (known.largest - int(known.zero_point))) ** 0.5
    )
    assert float(scale.grad) == pytest.approx(float(by_hand), abs=1e-4)


@by_numbers
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_what_is_packed_is_what_was_trained(spec: Weights, seed: int) -> None:
    torch.manual_seed(seed)
    start = pack_weight(torch.randn(6, 40), spec, Rounding("mse"))
    learned = LearnedWeight(start)
    assert torch.equal(learned.product(torch.eye(40)).T, start.dequantize()), (
        "the start is rounding after training"
    )
    with torch.no_grad():
        learned.latent += 0.2 * torch.randn_like(learned.latent)
        learned.log_step += 0.3 * torch.randn_like(learned.log_step)
    packed = learned.pack()
    assert torch.equal(packed.dequantize(), learned.product(torch.eye(40)).T)
    assert {k: (t.shape, t.dtype) for k, t in packed.tensors.items()} == {
        k: (t.shape, t.dtype) for k, t in start.tensors.items()
    }
