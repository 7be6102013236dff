"""Ranges of static activations, found on streamed inputs: minimum and maximum, or least squared error.

minmax: everything that calibration saw fits. mse: the range whose rounding and saturation together lose least, Σ(x - x̂)²
(Choukroun et al. 2019, arXiv 1902.06822), by a search over geometrically shrunk ends.

mse reads a histogram of fixed size, so that memory does not grow with the samples. Its bins are 2^k wide with zero
between the middle ones: when a value falls outside, neighbours are merged, which moves no count to a wrong place. So the
histogram does not depend on the order or the batches of the samples.
"""

import math

import torch
from torch import Tensor

from vggtq.errors import QuantizationError
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.activations import Activations

BINS = 2**13
PIECE = 2**17  # values that are binned at a time: what lies between stays in the cache
SMALLEST_EXPONENT = -100
SHRINKS = 64  # ends that mse tries, from the extreme down to 2^-8 of it
SHRINKS_PER_OCTAVE = 8
SWEEPS = 3  # of mse over low and high ends in turn


class RangeObserver:
    """Minimum, maximum and histogram of everything that `update` was given."""

    def __init__(self, histogram: bool = True) -> None:
        """histogram: whether to count values, which minmax does not need."""
        self.low, self.high = 0.0, 0.0
        self.values = 0
        self.exponent = SMALLEST_EXPONENT  # the histogram covers ±2^exponent
        self.counts: Tensor | None = torch.zeros(BINS, dtype=torch.int64) if histogram else None

    def update(self, x: Tensor) -> None:
        """x: any shape and float dtype. Raises QuantizationError for values that are NaN or infinite."""
        flat = x.detach().flatten().float()
        if not flat.numel():
            return
        low, high = (float(value) for value in torch.aminmax(flat))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise QuantizationError("calibration inputs are NaN or infinite; check the samples")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.values += flat.numel()
        if self.counts is not None:
            self._widen(max(-low, high))
            for part in flat.split(PIECE):
                self.counts += self._binned(part)

    @property
    def centers(self) -> Tensor:
        """Middles of the bins, (BINS,) float64."""
        return (torch.arange(BINS, dtype=torch.float64) - BINS / 2 + 0.5) * self.width

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(2.0 ** (self.exponent + 1) / BINS)

    def _widen(self, peak: float) -> None:
        """Makes ±2^exponent hold `peak`, by merging pairs of bins. Touches no bin as long as there is nothing in them."""
        assert self.counts is not None
        exponent = max(math.frexp(peak)[1], SMALLEST_EXPONENT) if peak > 0 else SMALLEST_EXPONENT
        while self.exponent < exponent and self.counts.any():
            merged = torch.zeros_like(self.counts)
            merged[BINS // 4 : 3 * BINS // 4] = self.counts.view(-1, 2).sum(1)
            self.counts, self.exponent = merged, self.exponent + 1
        self.exponent = max(self.exponent, exponent)

    def _binned(self, part: Tensor) -> Tensor:
        # Widths are powers of two, so that this product is exact and no value lands beside its bin.
        bins = torch.floor(part * (1 / self.width)).add_(BINS // 2).clamp_(0, BINS - 1)
        return torch.bincount(bins.to(torch.int32), minlength=BINS).cpu()


def observed_range(observer: RangeObserver, activations: Activations) -> InputRange:
    """The range by the observer that `activations` names."""
    ends = (observer.low, observer.high)
    if activations.observer == "mse":
        ends = _least_squares(observer, activations)
    return InputRange.between(*ends, activations.bits, activations.symmetric)


def _least_squares(observer: RangeObserver, activations: Activations) -> tuple[float, float]:
    """Shrinks both ends together if symmetric, else one after the other until that has gone around SWEEPS times."""
    shrinks = [2 ** (-step / SHRINKS_PER_OCTAVE) for step in range(SHRINKS + 1)]
    if activations.symmetric:
        peak = max(-observer.low, observer.high)
        return _best(observer, activations, [(-peak * s, peak * s) for s in shrinks])
    low, high = observer.low, observer.high
    for _ in range(SWEEPS):
        low, high = _best(observer, activations, [(low, observer.high * s) for s in shrinks])
        low, high = _best(observer, activations, [(observer.low * s, high) for s in shrinks])
    return low, high


def _best(
    observer: RangeObserver, activations: Activations, ends: list[tuple[float, float]]
) -> tuple[float, float]:
    """The (low, high) with the least squared error over the histogram; the first of equal ones."""
    assert observer.counts is not None
    used = observer.counts > 0
    centers, weights = observer.centers[used], observer.counts[used].double()
    errors = []
    for low, high in ends:
        rounded = InputRange.between(low, high, activations.bits, activations.symmetric).round_trip(centers)
        errors.append(float((rounded - centers).square() @ weights))
    return ends[errors.index(min(errors))]
