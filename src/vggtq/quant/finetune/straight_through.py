"""Rounding that lets gradients through, with learned step sizes.

LSQ (Esser et al. 2020, arXiv 1902.08153): with v = w / s, codes are q = round(clip(v, qmin, qmax)) and ŵ = q · s (eq. 1 and
2). Straight through: ∂ŵ/∂w = 1 inside the range, else 0 (eq. 5); ∂ŵ/∂s = q - v inside, qmin or qmax outside (eq. 3). The
gradient of a step size is divided by √(N · qmax), N the weights that share it (section 2.2). Values are those of
`round_to_codes` and `dequantize`, bit for bit. Zero points stay fixed (LSQ+ learns them).

Activations are rounded per token, as `fake_quantize` does: nothing is clipped there, so ∂x̂/∂x = 1, and the scale moves with the
largest |x| of its token, which gets Σ (q - v) of the token on top.
"""

from typing import Any

import torch
from torch import Tensor

from vggtq.quant.activations import fake_quantize, token_scales
from vggtq.quant.rounding import group_columns, grouped
from vggtq.quant.scheme import Weights


def rounded_weight(rows: Tensor, scale: Tensor, zero_point: Tensor | None, spec: Weights) -> Tensor:
    """ŵ (R, C), differentiable in rows (R, C) and in scale (1, 1), (R, 1) or (R, groups)."""
    out: Tensor = _RoundedWeight.apply(rows, scale, zero_point, spec)
    return out


def rounded_tokens(rows: Tensor, bits: int) -> Tensor:
    """x̂ (T, C), differentiable in rows (T, C)."""
    out: Tensor = _RoundedTokens.apply(rows, bits)
    return out


class _RoundedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, zero_point: Tensor | None, spec: Weights) -> Tensor:
        steps = grouped(rows, group_columns(rows.shape[1], spec)) / scale.unsqueeze(-1)
        ctx.save_for_backward(steps, scale, zero_point)
        ctx.spec, ctx.columns = spec, rows.shape[1]
        codes = steps.round().clamp_(*_limits(spec, zero_point))
        return codes.mul_(scale.unsqueeze(-1)).flatten(1)[:, : rows.shape[1]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        steps, scale, zero_point = ctx.saved_tensors
        spec: Weights = ctx.spec
        grad = grouped(grads[0], group_columns(ctx.columns, spec))
        clipped = steps.clamp(*_limits(spec, zero_point))
        inside = steps == clipped
        by_step = clipped.round_().sub_(steps * inside).mul_(grad).sum(-1)
        if scale.shape == (1, 1):
            by_step = by_step.sum().view(1, 1)
        shared = grads[0].numel() / scale.numel()
        by_weight = (grad * inside).flatten(1)[:, : ctx.columns]
        return by_weight, by_step / (shared * spec.qmax) ** 0.5, None, None


def _limits(spec: Weights, zero_point: Tensor | None) -> tuple[Any, Any]:
    """The smallest and the largest code, with the zero point subtracted."""
    if zero_point is None:
        return spec.qmin, spec.qmax
    zero = zero_point.to(torch.float32).unsqueeze(-1)
    return spec.qmin - zero, spec.qmax - zero


class _RoundedTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.bits = bits
        return fake_quantize(rows, bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        grad = grads[0]
        steps = rows / token_scales(rows, ctx.bits)
        by_scale = (steps.round().sub_(steps)).mul_(grad).sum(1, keepdim=True) / (2 ** (ctx.bits - 1) - 1)
        peak = rows.abs().argmax(1, keepdim=True)
        return grad.scatter_add(1, peak, by_scale * rows.gather(1, peak).sign()), None
