"""Rounding that lets gradients through, with learned step sizes.

LSQ (Esser et al. 2020, arXiv 1902.08153): with v = w / s, codes are q = round(clip(v, qmin, qmax)) and ŵ = q · s (eq. 1 and
2). Straight through: ∂ŵ/∂w = 1 inside the range, else 0 (eq. 5); ∂ŵ/∂s = q - v inside, qmin or qmax outside (eq. 3). The
gradient of a step size is divided by √(N · qmax), N the weights, or the features, that share it (section 2.2). Values are
those of `round_to_codes` and `dequantize`, or of `InputRange.round_trip`, bit for bit. Zero points stay fixed. Rounded weights
live as long as their product: the backward pass, which looks at every weight in any case, rounds them again.

Dynamic activations are rounded as `fake_quantize` does: ∂x̂/∂x = 1 inside the range, which is everywhere unless `clip` narrows
it. A scale per token moves with the largest |x| of its token, which gets clip · Σ (q - v) / qmax of the token on top; other
dynamic scales count as constants.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.quant.numbers.input_codes import clipped_scales, fake_quantize
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.rounding import group_columns, grouped
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


def rounded_linear(
    inputs: Tensor, rows: Tensor, scale: Tensor, zero_point: Tensor | None, bias: Tensor | None, spec: Weights
) -> Tensor:
    """x ŵᵀ + b, (T, R), ŵ the rounded rows; differentiable in all of inputs (T, C), rows (R, C), bias (R,) and scale."""
    zero = 0 if zero_point is None else zero_point.to(torch.float32).unsqueeze(-1)
    factor = (rows.numel() / scale.numel() * spec.qmax) ** -0.5
    steps = _Steps(spec.qmin - zero, spec.qmax - zero, group_columns(rows.shape[1], spec), factor)
    return _RoundedLinear.apply(inputs, rows, scale, bias, steps)


def rounded_inputs(rows: Tensor, scale: Tensor, known: InputRange) -> Tensor:
    """x̂ (T, C) with the zero point of `known`, differentiable in rows (T, C) and in scale (1, 1)."""
    zero = int(known.zero_point)
    columns = rows.shape[1]
    factor = (columns * (known.largest - zero or 1)) ** -0.5
    steps = _Steps(known.smallest - zero, known.largest - zero, columns, factor)
    return _Rounded.apply(rows, scale, steps)


def rounded_tokens(rows: Tensor, numbers: Activations) -> Tensor:
    """x̂ (T, C) with dynamic scales, differentiable in rows (T, C)."""
    return _RoundedTokens.apply(rows, numbers)


@dataclass(frozen=True)
class _Steps:
    """q = round(clip(x / s, low, high)), x̂ = q · s. Columns in groups that share a scale; factor: of the scale's gradient."""

    low: Any  # a number, or a tensor for zero points of groups
    high: Any
    group: int
    factor: float

    def rounded(self, rows: Tensor, scale: Tensor) -> Tensor:
        codes = (grouped(rows, self.group) / scale.unsqueeze(-1)).round_().clamp_(self.low, self.high)
        return codes.mul_(scale.unsqueeze(-1)).flatten(1)[:, : rows.shape[1]]

    def gradients(self, rows: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients by rows and by scale, from `grad`, the gradient by x̂."""
        steps, grad = grouped(rows, self.group) / scale.unsqueeze(-1), grouped(grad, self.group)
        clipped = steps.clamp(self.low, self.high)
        inside = steps == clipped
        by_step = clipped.round_().sub_(steps * inside).mul_(grad).sum(-1)
        if scale.shape == (1, 1):
            by_step = by_step.sum().view(1, 1)
        by_value = (grad * inside).flatten(1)[:, : rows.shape[1]]
        return by_value, by_step * self.factor


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, steps: _Steps) -> Tensor:
        ctx.save_for_backward(rows, scale)
        ctx.steps = steps
        return steps.rounded(rows, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.steps.gradients(*ctx.saved_tensors, grads[0]), None


class _RoundedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, rows: Tensor, scale: Tensor, bias: Tensor | None, steps: _Steps
    ) -> Tensor:
        product = F.linear(inputs, steps.rounded(rows, scale), bias)
        # Under autocast in half precision, as its gradient will be.
        ctx.save_for_backward(inputs.to(product.dtype), rows, scale)
        ctx.steps = steps
        return product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, rows, scale = ctx.saved_tensors
        grad, steps = grads[0], ctx.steps
        for_input, for_rows, for_scale, for_bias, _ = ctx.needs_input_grad
        by_input = grad @ steps.rounded(rows, scale).to(grad.dtype) if for_input else None
        by_value, by_step = None, None
        if for_rows or for_scale:
            by_weight = (grad.T @ inputs).to(rows.dtype)
            by_value, by_step = steps.gradients(rows, scale, by_weight)
        return by_input, by_value, by_step, grad.sum(0) if for_bias else None, None


class _RoundedTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Activations) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.numbers = numbers
        return fake_quantize(rows, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,), grad, numbers = ctx.saved_tensors, grads[0], ctx.numbers
        if numbers.scale_granularity != "per_token" or not numbers.symmetric:
            return grad, None
        limit = numbers.largest_code
        steps = rows / clipped_scales(rows, numbers)
        codes = steps.round().clamp_(-limit, limit)
        if numbers.clip < 1:
            inside = steps.abs() <= limit
            steps, by_value = steps.mul_(inside), grad * inside
        else:
            by_value = grad
        total = codes.sub_(steps).mul_(grad).sum(1, keepdim=True)
        peak = rows.abs().argmax(1, keepdim=True)
        by_scale = total * rows.gather(1, peak).sign() * (numbers.clip / limit)
        return by_value.scatter_add(1, peak, by_scale), None
