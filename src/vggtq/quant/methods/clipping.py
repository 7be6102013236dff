"""Scales that round with less error than min-max.

mse: the range is shrunk step by step and every group keeps the scale with the smallest error (as in Banner et al. 2019,
arXiv 1810.05723, by search instead of a distribution). The error is Σ(w - ŵ)², or, where the inputs' Gram matrix G is known,
what the group adds to the error of the layer's output by itself, d G_gg dᵀ with d = w - ŵ, as AWQ clips (Lin et al. 2024,
section 3.2 and its code). Without G clipping saves error of the weight but may lose output: large weights matter most.

hqq: half-quadratic splitting (Badri and Shaji 2023, Half-Quadratic Quantization) of min ‖W - ŵ‖_p, p < 1, which
forgives a few large errors: W_e = shrink(W - ŵ), then the best parameters for W - W_e in closed form. HQQ solves for a
real zero point and keeps min-max scales; here both are solved for, and the zero point is rounded, since zero has to stay a
code: small weights that face outlier inputs are worth zero, and would be lost between two codes. The best pair that was seen
is kept, so the objective never grows.
"""

import torch
from torch import Tensor

from vggtq.quant.numbers.rounding import (
    dequantize,
    group_columns,
    grouped,
    quantization_parameters,
    round_to_codes,
)
from vggtq.quant.scheme.weights import Weights

SHRINKS = 40  # ranges that are tried, from 1 down to LEAST
LEAST = 0.4
WIDEST_BLOCK = 256  # columns of a group whose inputs' correlations count; beyond, each input counts by itself
HQQ_STEPS = 20
HQQ_P = 0.7
HQQ_BETA = 10.0  # weight of the quadratic term, in units of 1 / (largest |w|)², and its growth
HQQ_KAPPA = 1.05


def clipped_parameters(
    rows: Tensor, spec: Weights, gram: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """As `quantization_parameters`: rows (R, C) float32 to scale and zero point, never with more error. gram: (C, C)."""
    scale, zero = quantization_parameters(rows, spec)
    best_scale = scale
    blocks = None if gram is None else _gram_blocks(gram, spec)
    least = _group_error(rows, scale, zero, spec, blocks)
    for step in range(1, SHRINKS + 1):
        shrunk = scale * (1 - (1 - LEAST) * step / SHRINKS)
        # The code of zero stays where it is in the range, so that both ends are clipped alike.
        error = _group_error(rows, shrunk, zero, spec, blocks)
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, shrunk, best_scale)
    return best_scale, zero


def half_quadratic_parameters(rows: Tensor, spec: Weights) -> tuple[Tensor, Tensor | None]:
    """As `quantization_parameters`, with scale and zero point of every group after HQQ's iteration."""
    first, zero = quantization_parameters(rows, spec)
    best, best_zero, least = first, zero, half_quadratic_objective(rows, first, zero, spec)
    scale, beta = first, HQQ_BETA / float(rows.abs().amax().clamp_min(1e-12)) ** 2
    for _ in range(HQQ_STEPS):
        scale, zero = _half_quadratic_step(rows, scale, zero, spec, beta)
        objective = half_quadratic_objective(rows, scale, zero, spec)
        better = objective < least
        best, least = torch.where(better, scale, best), torch.minimum(objective, least)
        best_zero = None if best_zero is None or zero is None else torch.where(better, zero, best_zero)
        beta *= HQQ_KAPPA
    return best, best_zero


def _half_quadratic_step(
    rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights, beta: float
) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point that fit the rows without their largest errors, codes being fixed."""
    codes = round_to_codes(rows, scale, zero, spec).float()
    shifted = codes - _spread(zero, rows, spec)
    clean = rows - _shrink(rows - shifted * _spread(scale, rows, spec), beta)
    if zero is not None:  # the regression of clean values on codes, whose offset gives the zero point
        count = _group_sum(torch.ones_like(rows), spec)
        mean, mean_code = (_group_sum(values, spec) / count for values in (clean, codes))
        covariance = _group_sum(codes * clean, spec) - count * mean * mean_code
        variance = _group_sum(codes.square(), spec) - count * mean_code.square()
        slope = torch.where(variance > 0, covariance / variance.clamp_min(1e-30), scale)
        slope = torch.where(slope > 0, slope, scale)
        zero = torch.round(mean_code - mean / slope).clamp(0, spec.qmax).to(torch.int32)
        shifted = codes - _spread(zero, rows, spec)
    numerator, denominator = _group_sum(shifted * clean, spec), _group_sum(shifted.square(), spec)
    solved = torch.where(denominator > 0, numerator / denominator.clamp_min(1e-30), scale)
    return torch.where(solved > 0, solved, scale), zero


def half_quadratic_objective(rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights) -> Tensor:
    """Σ|w - ŵ|^p of every group, in the shape of `scale`."""
    rounded = dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
    return _group_sum((rows - rounded).abs().pow(HQQ_P), spec)


def _shrink(x: Tensor, beta: float) -> Tensor:
    """The proximal operator of |x|^p, generalized soft thresholding (HQQ, eq. 4)."""
    return x.sign() * (x.abs() - x.abs().clamp_min(1e-8).pow(HQQ_P - 1) / beta).clamp_min(0)


def _gram_blocks(gram: Tensor, spec: Weights) -> Tensor:
    """(groups, g, g) diagonal blocks of a Gram matrix (C, C); (C,), its diagonal alone, where groups are wide."""
    size = group_columns(len(gram), spec)
    if size > WIDEST_BLOCK or spec.granularity == "per_tensor":
        return gram.diagonal()
    padded = torch.nn.functional.pad(gram, (0, -len(gram) % size, 0, -len(gram) % size))
    return torch.stack([padded[i : i + size, i : i + size] for i in range(0, len(padded), size)])


def _group_error(
    rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights, blocks: Tensor | None = None
) -> Tensor:
    difference = rows - dequantize(round_to_codes(rows, scale, zero, spec), scale, zero, spec)
    if blocks is None:
        return _group_sum(difference.square(), spec)
    if blocks.ndim == 1:
        return _group_sum(difference.square() * blocks, spec)
    groups = grouped(difference, blocks.shape[1]).transpose(0, 1)  # (groups, R, g)
    return ((groups @ blocks) * groups).sum(-1).T


def _group_sum(values: Tensor, spec: Weights) -> Tensor:
    """(R, C) to one sum per scale."""
    if spec.granularity == "per_tensor":
        return values.sum().view(1, 1)
    return grouped(values, group_columns(values.shape[1], spec)).sum(-1)


def _spread(parameter: Tensor | None, rows: Tensor, spec: Weights) -> Tensor | float:
    """A scale or zero point for every weight, broadcastable against rows."""
    if parameter is None:
        return 0.0
    size = group_columns(rows.shape[1], spec)
    return parameter.float().repeat_interleave(size, 1)[:, : rows.shape[1]]
