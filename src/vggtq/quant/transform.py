"""Changes of the basis that weights are rounded in: x Wᵀ = t(x) T(W)ᵀ exactly, but T(W), or t(x), rounds with less error.

scale: t(x) = x / s, T(W) = W · s per input channel. SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, eq. 4) takes s =
max|x|^α / max|W|^(1-α), so that activations and weights share the outliers. AWQ (Lin et al. 2024, arXiv 2306.00978,
section 3.2) takes s = mean|x|^α and searches α for the smallest error of the layer's output; with the inputs' Gram
matrix that error is known without running the layer. SINQ (Müller et al. 2025, arXiv 2509.22944) needs no data: s is one over
the columns' spread after rows and columns have been divided by their standard deviations in turn, so that weights which an
outlier input made small are rounded as finely as the others. rotation: Hadamard blocks on both sides
(`vggtq.quant.hadamard`), after the scale or, as in QuantVGGT (Feng et al. 2025, arXiv 2509.21302), before it: t(x) = x R / s.

balance: the scale that suits a rotation. Behind it the rounding error of a token is spread evenly over all channels c, with a
power in proportion to Σ x_c²/s_c², and comes out of the layer times Σ s_c²‖W_c‖²; likewise the error of the weight. By
Cauchy and Schwarz the product of the two sums is smallest for s_c² = rms(x_c) / ‖W_c‖: SmoothQuant with α = ½, but with
powers in place of maxima.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.quant.calibration import InputStatistics
from vggtq.quant.hadamard import rotate

AWQ_STEPS = 20
AWQ_ROWS = 512  # output rows that the search looks at, evenly spaced: all of them say the same of the inputs
SINKHORN_STEPS = 16


@dataclass(frozen=True)
class InputTransform:
    """scale: (C,) float32 or None; rotation: width of the Hadamard blocks, 0 for none.

    merged: width of the blocks that inputs have been through when they come (`vggtq.quant.values`); it divides `rotation`.
    rotation_first: whether the scale is that of rotated inputs.
    """

    scale: Tensor | None = None
    rotation: int = 0
    merged: int = 0
    rotation_first: bool = False

    def inputs(self, x: Tensor) -> Tensor:
        """t(x), (…, C); of merged blocks, what is left of it."""
        if self.rotation_first:
            return self._divided(self._turned(x))
        return self._turned(self._divided(x))

    def weight(self, rows: Tensor) -> Tensor:
        """T(W), (R, C)."""
        if self.rotation and self.rotation_first:
            rows = rotate(rows, self.rotation)
        rows = rows if self.scale is None else rows * self.scale
        return rotate(rows, self.rotation) if self.rotation and not self.rotation_first else rows

    def original(self, rows: Tensor) -> Tensor:
        """W from T(W), (R, C): blocks of a rotation are their own inverse."""
        if self.rotation and not self.rotation_first:
            rows = rotate(rows, self.rotation)
        rows = rows if self.scale is None else rows / self.scale
        return rotate(rows, self.rotation) if self.rotation and self.rotation_first else rows

    def _divided(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x / self.scale.to(x.dtype)

    def _turned(self, x: Tensor) -> Tensor:
        stride = max(self.merged, 1)
        return rotate(x, self.rotation // stride, stride) if self.rotation > self.merged else x

    def gram(self, gram: Tensor) -> Tensor:
        """The Gram matrix (C, C) of t(x), from that of x."""
        half = self.inputs(gram)
        return self.inputs(half.T)

    def __bool__(self) -> bool:
        return self.scale is not None or self.rotation > self.merged


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
