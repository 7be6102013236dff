"""The comparison picture of a run: input, FP32 depth, quantized depth and their difference, one row per frame."""

from pathlib import Path

import numpy as np
from torch import Tensor

from vggtq.files.atomic import replacing
from vggtq.machine.fonts import families, legible


def draw_comparison(
    path: Path, images: Tensor, reference: Tensor, quantized: Tensor, label: str, caption: str
) -> None:
    """Writes a PNG. images: (S, 3, H, W) in [0, 1]; reference, quantized: (S, H, W) depth.

    Both depths share one colour scale, the 2nd to 98th percentile of the reference; the difference is relative to it.
    """
    import matplotlib

    with matplotlib.rc_context({"font.family": families()}):
        _draw(path, images, reference, quantized, legible(label), legible(caption))


def _draw(path: Path, images: Tensor, reference: Tensor, quantized: Tensor, label: str, caption: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    frames, height, width = reference.shape
    row = 2.6 * height / width
    figure = Figure(figsize=(11.6, frames * row + 1.0), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(frames, 4, squeeze=False)
    low, high = np.nanpercentile(reference.numpy(), (2, 98))
    relative = ((quantized - reference) / reference.abs().clamp_min(1e-12)).numpy()
    known = np.abs(relative[np.isfinite(relative)])
    limit = max(float(np.percentile(known, 99)) if known.size else 1.0, 1e-9)
    for frame, cells in enumerate(axes):
        cells[0].imshow(images[frame].permute(1, 2, 0).clamp(0, 1).numpy())
        for cell, depth in ((cells[1], reference[frame]), (cells[2], quantized[frame])):
            shown = cell.imshow(depth.numpy(), cmap="viridis", vmin=low, vmax=high)
        change = cells[3].imshow(relative[frame], cmap="RdBu_r", vmin=-limit, vmax=limit)
        for cell in cells:
            cell.set_xticks([])
            cell.set_yticks([])
        cells[0].set_ylabel(f"frame {frame}", fontsize=9)
    for cell, title in zip(
        axes[0], ("input", "depth, FP32", f"depth, {label}", "relative difference"), strict=True
    ):
        cell.set_title(title, fontsize=10)
    figure.colorbar(
        shown, ax=axes[:, 1:3], location="bottom", fraction=0.06, pad=0.02, label="depth (model units)"
    )
    bar = figure.colorbar(
        change, ax=axes[:, 3], location="bottom", fraction=0.06, pad=0.02, label="(quantized - FP32) / FP32"
    )
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    figure.suptitle(caption, fontsize=10, parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
