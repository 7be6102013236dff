"""Scales that round with less error than min-max, from the weight alone.

mse: the range is shrunk step by step and every group keeps the scale with the smallest Σ(w - ŵ)² (as in Banner et al.
2019, arXiv 1810.05723, by search instead of a distribution).

hqq: half-quadratic splitting (Badri and Shaji 2023, Half-Quadratic Quantization) of min ‖W - ŵ‖_p, p < 1, which
forgives a few large errors: W_e = shrink(W - ŵ), then the best parameter for W - W_e in closed form. HQQ solves for a
real zero point; zero points are integers here, so the scale is solved for. A step that raises the objective ends a
group's iteration: it never grows.
"""

import torch
from torch import Tensor

from vggtq.quant.rounding import dequantize, group_columns, quantization_parameters, round_to_codes
from vggtq.quant.scheme import Weights

SHRINKS = 40  # ranges that are tried, from 1 down to LEAST
LEAST = 0.4
HQQ_STEPS = 20
HQQ_P = 0.7
HQQ_BETA = 10.0  # weight of the quadratic term, in units of 1 / (largest |w|)², and its growth
HQQ_KAPPA = 1.05


def clipped_parameters(rows: Tensor, spec: Weights) -> tuple[Tensor, Tensor | None]:
    """As `quantization_parameters`: rows (R, C) float32 to scale and zero point, never with more squared error."""
    scale, zero = quantization_parameters(rows, spec)
    best_scale, best_zero = scale, zero
    least = _group_error(rows, scale, zero, spec)
    for step in range(1, SHRINKS + 1):
        shrink = 1 - (1 - LEAST) * step / SHRINKS
        # The code of zero stays where it is in the range, so that both ends are clipped alike.
        candidate = scale * shrink
        error = _group_error(rows, candidate, zero, spec)
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, candidate, best_scale)
    return best_scale, best_zero


def half_quadratic_parameters(rows: Tensor, spec: Weights) -> tuple[Tensor, Tensor | None]:
    """As `quantization_parameters`, with the scale of every group after HQQ's iteration."""
    scale, zero = quantization_parameters(rows, spec)
    beta = HQQ_BETA / float(rows.abs().amax().clamp_min(1e-12)) ** 2
    best, least = scale, half_quadratic_objective(rows, scale, zero, spec)
    for _ in range(HQQ_STEPS):
        codes = round_to_codes(rows, scale, zero, spec)
        shifted = codes.float() - _spread(zero, rows, spec)
        remainder = rows - shifted * _spread(scale, rows, spec)
        clean = rows - _shrink(remainder, beta)
        numerator = _group_sum(shifted * clean, spec)
        denominator = _group_sum(shifted.square(), spec)
        solved = torch.where(denominator > 0, numerator / denominator.clamp_min(1e-30), scale)
        scale = torch.where(solved > 0, solved, scale)
        objective = half_quadratic_objective(rows, scale, zero, spec)
        best = torch.where(objective < least, scale, best)
        least = torch.minimum(objective, least)
        beta *= HQQ_KAPPA
    return best, zero


def half_quadratic_objective(rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights) -> Tensor:
    """Σ|w - ŵ|^p of every group, in the shape of `scale`."""
    rounded = dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
    return _group_sum((rows - rounded).abs().pow(HQQ_P), spec)


def _shrink(x: Tensor, beta: float) -> Tensor:
    """The proximal operator of |x|^p, generalized soft thresholding (HQQ, eq. 4)."""
    return x.sign() * (x.abs() - x.abs().clamp_min(1e-8).pow(HQQ_P - 1) / beta).clamp_min(0)


def _group_error(rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights) -> Tensor:
    rounded = dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
    return _group_sum((rows - rounded).square(), spec)


def _group_sum(values: Tensor, spec: Weights) -> Tensor:
    """(R, C) to one sum per scale."""
    if spec.granularity == "per_tensor":
        return values.sum().view(1, 1)
    size = group_columns(values.shape[1], spec)
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % size))
    return padded.unflatten(1, (-1, size)).sum(-1)


def _spread(parameter: Tensor | None, rows: Tensor, spec: Weights) -> Tensor | float:
    """A scale or zero point for every weight, broadcastable against rows."""
    if parameter is None:
        return 0.0
    size = group_columns(rows.shape[1], spec)
    return parameter.float().repeat_interleave(size, 1)[:, : rows.shape[1]]
