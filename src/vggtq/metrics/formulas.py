"""The formulas of metrics: numbers from what `vggtq.metrics` prepares of one scene, one frame, or all of them. No torch."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SSIM_WINDOW = 7  # pixels; scikit-image's default
DELTA = 1.25
INLIER = 1.03


def psnr(mse: float, peak: float) -> float:
    """10·log₁₀(peak² / mse) in dB, peak = range of the reference; +inf without error, NaN without range.

    A range rather than max|x|: the latter grows with any offset that is added to the data.
    """
    if mse == 0:
        return math.inf
    return 20 * math.log10(peak) - 10 * math.log10(mse) if peak > 0 else math.nan


def ssim(quantized: "Tensor", reference: "Tensor") -> float | None:
    """Windowed SSIM of one map (H, W, C) in float64 (Wang et al. 2004, as scikit-image computes it).

    The data range is that of the reference frame. None where the frame is no map or smaller than the window; 1 for equal maps,
    constant ones included; NaN for values that are not finite and where only the reference is constant.
    """
    if reference.ndim != 3 or min(reference.shape[:2]) < SSIM_WINDOW:
        return None
    if bool((quantized == reference).all()):
        return 1.0
    data_range = (reference.max() - reference.min()).item()
    if not quantized.isfinite().all() or not 0 < data_range < math.inf:
        return math.nan
    from skimage.metrics import structural_similarity

    images = (quantized.numpy(), reference.numpy())
    score = structural_similarity(*images, win_size=SSIM_WINDOW, data_range=data_range, channel_axis=-1)
    return float(score)


def accuracy_below(errors_deg: np.ndarray, threshold_deg: float) -> float:
    """The fraction of errors below the threshold, 0 to 1. NaN errors are failures; without errors, NaN."""
    return float(np.mean(errors_deg < threshold_deg)) if errors_deg.size else float("nan")


def area_under_curve(errors_deg: np.ndarray, max_deg: int) -> float:
    """AUC@T: the mean of the cumulated histogram of the errors over bins of 1°, 0 to 1, as VGGT computes it.

    The last bin includes T itself. NaN errors lie above every bin; without errors the AUC is NaN.
    """
    if not errors_deg.size:
        return float("nan")
    counts, _ = np.histogram(np.nan_to_num(errors_deg, nan=np.inf), bins=np.arange(max_deg + 1))
    return float(np.mean(np.cumsum(counts / errors_deg.size)))


def abs_rel(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean of |p − g| / g; 0 is perfect."""
    return float(np.mean(np.abs(predicted - truth) / truth))


def share_within(predicted: np.ndarray, truth: np.ndarray, factor: float) -> float:
    """The fraction of pixels where max(p/g, g/p) < factor; p ≤ 0, NaN and inf fail.

    With 1.25 it is δ₁; with 1.03 the inlier ratio of RobustMVD (Schröppel et al. 2022, A benchmark and a baseline for robust
    multi-view depth estimation).
    """
    # Without a division: g/p < factor and p/g < factor, true only for positive finite p.
    return float(np.mean((truth < factor * predicted) & (predicted < factor * truth)))


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """√ mean (p − g)², in the units of the ground truth."""
    return float(np.sqrt(np.mean(np.square(predicted - truth))))


def mean_of_finite(values: np.ndarray) -> float:
    """The mean of the finite values; NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.mean(known)) if known.size else float("nan")


def mean_of_medians(values: np.ndarray, first: int) -> float:
    """Of the medians of the finite values among values[:first] and among values[first:]; NaN where either has none."""
    known = [part[np.isfinite(part)] for part in (values[:first], values[first:])]
    return float(np.mean([np.median(part) for part in known])) if all(p.size for p in known) else float("nan")
