"""The mean of differences over scenes, and what of it is more than noise. Needs NumPy alone: the report uses it too."""

import math
from collections.abc import Sequence

import numpy as np

BOOTSTRAP_SAMPLES = 10_000


def paired_interval(differences: Sequence[float]) -> dict[str, float | int | None]:
    """mean, and the low and high end of its 95 % percentile bootstrap interval over scenes (Efron and Tibshirani 1993, §13).

    Scenes are what is resampled, each with its own difference, so that easy and hard scenes do not widen the interval. NaN
    differences are left out; an infinite one leaves no interval, nor does a single scene.
    """
    values = np.array([value for value in differences if not math.isnan(value)])
    if not len(values):
        return {"mean": math.nan, "low": None, "high": None, "scenes": 0}
    low = high = None
    if len(values) > 1 and np.isfinite(values).all():
        picks = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAP_SAMPLES, len(values)))
        low, high = (float(end) for end in np.percentile(values[picks].mean(1), (2.5, 97.5)))
    return {"mean": float(values.mean()), "low": low, "high": high, "scenes": len(values)}
