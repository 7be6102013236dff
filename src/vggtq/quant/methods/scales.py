"""Changes of the basis that weights are rounded in: x Wᵀ = t(x) T(W)ᵀ exactly, but T(W), or t(x), rounds with less error.

scale: t(x) = x / s, T(W) = W · s per input channel. SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, eq. 4) takes s =
max|x|^α / max|W|^(1-α), so that activations and weights share the outliers. AWQ (Lin et al. 2024, arXiv 2306.00978,
section 3.2) takes s = mean|x|^α and searches α for the smallest error of the layer's output; with the inputs' Gram
matrix that error is known without running the layer. SINQ (Müller et al. 2025, arXiv 2509.22944) needs no data: s is one over
the columns' spread after rows and columns have been divided by their standard deviations in turn, so that weights which an
outlier input made small are rounded as finely as the others. rotation: Hadamard blocks on both sides
(`numbers.hadamard`), after the scale or, as in QuantVGGT (Feng et al. 2025, arXiv 2509.21302), before it: t(x) = x R / s.

balance: the scale that suits a rotation. Behind it the rounding error of a token is spread evenly over all channels c, with a
power in proportion to Σ x_c²/s_c², and comes out of the layer times Σ s_c²‖W_c‖²; likewise the error of the weight. By
Cauchy and Schwarz the product of the two sums is smallest for s_c² = rms(x_c) / ‖W_c‖: SmoothQuant with α = ½, but with
powers in place of maxima.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vggtq.quant.methods.round import pack_weight
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.scheme.methods import Transform
from vggtq.quant.scheme.registry import resolved
from vggtq.quant.scheme.weights import Weights

AWQ_STEPS = 20
AWQ_ROWS = 512  # output rows that the search looks at, evenly spaced: all of them say the same of the inputs
SINKHORN_STEPS = 16


def channel_scale(
    rows: Tensor, spec: Weights, transform: Transform, statistics: InputStatistics | None
) -> Tensor | None:
    """The scale (C,) that `transform` asks for, for a weight (R, C); None for none, or where the data for it is missing."""
    method = transform.entry
    if method.function is None or (method.needs_data and statistics is None):
        return None
    # Round to nearest, whatever the rounding: a search for scales inside of the search takes forty times as long.
    known = {
        "statistics": statistics,
        "alpha": transform.alpha,
        "round_trip": lambda weight: pack_weight(weight, spec).dequantize(),
    }
    return resolved(method.function)(rows, **{key: known[key] for key in method.takes})


def smooth_scale(rows: Tensor, statistics: InputStatistics, alpha: float) -> Tensor:
    """SmoothQuant's scale, (C,); channels without any input or weight keep 1. Normalized to a geometric mean of 1."""
    inputs, weights = statistics.largest, rows.abs().amax(0)
    usable = (inputs > 0) & (weights > 0)
    scale = inputs.clamp_min(1e-12).pow(alpha) / weights.clamp_min(1e-12).pow(1 - alpha)
    return _normalized(torch.where(usable, scale, torch.ones_like(scale)), usable)


def balance_scale(rows: Tensor, statistics: InputStatistics) -> Tensor:
    """√(rms(x) / ‖W‖₂) of every input channel, (C,); channels without any input or weight keep 1. Geometric mean 1."""
    inputs, weights = statistics.gram.diagonal().sqrt(), rows.norm(dim=0)
    usable = (inputs > 0) & (weights > 0)
    scale = (inputs.clamp_min(1e-12) / weights.clamp_min(1e-12)).sqrt()
    return _normalized(torch.where(usable, scale, torch.ones_like(scale)), usable)


def sinkhorn_scale(rows: Tensor) -> Tensor:
    """SINQ's scale, (C,): W · s has columns of equal spread, once its rows have been made equal too. Zero columns keep 1."""
    balanced, spread = rows.float(), torch.ones_like(rows[0], dtype=torch.float32)
    for _ in range(SINKHORN_STEPS):
        for axis in (1, 0):
            deviation = balanced.square().mean(axis, keepdim=True).sqrt()
            deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
            balanced = balanced / deviation
        spread = spread * deviation[0]
    usable = rows.abs().amax(0) > 0
    return _normalized(torch.where(usable, 1 / spread, torch.ones_like(spread)), usable)


def awq_scale(
    rows: Tensor, statistics: InputStatistics, round_trip: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """The scale (C,) whose rounding disturbs the output least, None where no scale is better than none.

    round_trip: a weight (r, C) to its rounded values.
    """
    rows = rows[:: -(-len(rows) // AWQ_ROWS)]
    best, least = None, output_error(rows, round_trip(rows), statistics.gram)
    usable = statistics.mean_abs > 0
    for step in range(1, AWQ_STEPS + 1):
        scale = statistics.mean_abs.clamp_min(1e-12).pow(step / AWQ_STEPS)
        scale = _normalized(torch.where(usable, scale, torch.ones_like(scale)), usable)
        error = output_error(rows, round_trip(rows * scale) / scale, statistics.gram)
        if error < least:
            best, least = scale, error
    return best


def output_error(rows: Tensor, rounded: Tensor, gram: Tensor) -> float:
    """Mean over inputs of ‖x (W - Ŵ)ᵀ‖² = Σ (D G) ⊙ D, for a layer with Gram matrix G and D = W - Ŵ."""
    difference = (rows - rounded).to(gram.dtype)
    return float(((difference @ gram) * difference).sum())


def _normalized(scale: Tensor, usable: Tensor) -> Tensor:
    if not usable.any():
        return scale
    normal = torch.where(usable, scale / scale[usable].log().mean().exp(), torch.ones_like(scale))
    # Few digits, so that scales stored in half precision are exact, and the product stays the same.
    return normal.clamp(1e-4, 1e4).to(torch.bfloat16).float()
