"""Depth against ground truth: AbsRel, δ < 1.25 and RMSE after one scale per stacked sequence.

The protocol of video depth in CUT3R and π³: VGGT's depth has no absolute scale, so all frames of a scene
share one factor, from medians or least squares; a factor per frame would hide that frames disagree.

Only pixels with ground truth count, and all of them do: where the prediction is not positive or not finite
it fails δ; not finite makes AbsRel and RMSE infinite, so that a broken depth map can neither win nor drop out
of a mean over scenes as an undefined one does. A non-positive prediction enters AbsRel and RMSE as it is.
"""

import numpy as np
import torch
from torch import Tensor

from vggtq.errors import check_choice
from vggtq.metrics.metric import ALIGNMENTS, HIGHER, Metric
from vggtq.metrics.table import metrics


def depth_scale(predicted: np.ndarray, truth: np.ndarray, alignment: str) -> float:
    """The factor that the predictions (N,) are multiplied by; all values positive and finite.

    median: median(truth) / median(predicted). lstsq: the s that minimises ‖s·predicted − truth‖₂. none: 1.
    NaN without values, except that `none` needs none.
    """
    if alignment == "none":
        return 1.0
    if not predicted.size:
        return float("nan")
    if alignment == "median":
        return float(np.median(truth) / np.median(predicted))
    return float(predicted @ truth / (predicted @ predicted))


def depth_metrics(
    predicted: Tensor, truth: Tensor, alignment: str = "median"
) -> dict[str, float | int | str]:
    """Depth errors of one scene in float64.

    predicted: (S, H, W), any scale. truth: (S, H, W), scene units; NaN, inf and values ≤ 0 are invalid.
    Returns the metrics of scope `depth`, scale, valid_pixels, non_finite_pixels (valid ones whose prediction is
    NaN or inf), alignment. Without a valid pixel the metrics and the scale are NaN. The scale
    comes from the positive finite predictions; where there are none to align it is NaN and both errors are
    inf. Raises ConfigError for an unknown alignment.
    """
    check_choice("depth_alignment", alignment, ALIGNMENTS)
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise ValueError(f"depths must be (S, H, W): got {tuple(predicted.shape)} and {tuple(truth.shape)}")
    valid = truth.isfinite() & (truth > 0)
    g = truth[valid].cpu().double().numpy()
    p = predicted[valid.to(predicted.device)].detach().cpu().to(torch.float64).numpy()
    finite = np.isfinite(p)
    usable = finite & (p > 0)
    scale = depth_scale(p[usable], g[usable], alignment)
    scaled = p * scale
    failed = not (finite.all() and np.isfinite(scale))

    def score(metric: Metric) -> float:
        assert metric.function is not None
        if not g.size:
            return float("nan")
        if (
            failed and metric.direction != HIGHER
        ):  # an error; shares of good pixels count the bad ones by themselves
            return metric.worst
        value = metric.function(scaled, g)
        return metric.worst if failed and np.isnan(value) else float(value)

    return {
        **{metric.key: score(metric) for metric in metrics("depth")},
        "scale": scale if g.size else float("nan"),
        "valid_pixels": int(g.size),
        "non_finite_pixels": int((~finite).sum()),
        "alignment": alignment,
    }
