"""Depth and confidence of each frame as files: .npy, 16-bit PNG, and a colour preview."""

import json
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.files.atomic import replacing, write_text
from vggtq.predict.per_frame import Maps, positive, values

LEVELS = 2**16 - 1
DEPTH_COLOURS, CONFIDENCE_COLOURS = "viridis", "magma"


def write_npy(path: Path, map_: NDArray[np.float32]) -> None:
    """(H, W) float32; NaN where there is none."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(map_, np.float32), allow_pickle=False)


def png16_scale(depth: Maps) -> float:
    """Depth of one grey level, so that the largest depth of all frames is level 65535; 0 where there is no depth."""
    largest = [float(map_[usable].max()) for map_ in depth if (usable := positive(0, map_)).any()]
    return max(largest, default=0.0) / LEVELS


def write_png16(path: Path, depth: NDArray[np.float32], scale: float) -> None:
    """depth (H, W) ≈ level · scale, wrong by at most half of scale (by scale for the very nearest); level 0: no depth."""
    levels = np.zeros(depth.shape, np.uint16)
    usable = positive(0, depth)
    # 0 stands for no depth, so a depth that would round to it becomes 1
    levels[usable] = np.rint(depth[usable].astype(np.float64) / scale).clip(1, LEVELS) if scale else 0
    _save(path, Image.fromarray(levels))


def write_scale(path: Path, scale: float) -> None:
    """Writes the meaning of the grey levels of 16-bit PNGs."""
    meaning = {"scale": scale, "depth": "level * scale", "level_0": "no depth", "unit": "of cameras.json"}
    write_text(path, json.dumps(meaning, indent=1) + "\n")


def colour_range(maps: Maps) -> tuple[float, float]:
    """The 2nd and 98th percentile of the finite values, never equal."""
    found = values(maps)
    if not found.size:
        return 0.0, 1.0
    low, high = (float(edge) for edge in np.percentile(found, (2, 98), overwrite_input=True))
    return low, max(high, low + 1e-6 * max(1.0, abs(low)))


def coloured(map_: NDArray[np.float32], limits: tuple[float, float], colours: str) -> NDArray[np.uint8]:
    """(H, W) to (H, W, 3) uint8; white where there is no value."""
    low, high = limits
    with np.errstate(invalid="ignore"):
        share = ((map_ - low) / (high - low)).clip(0, 1)
    rgb = matplotlib.colormaps[colours](np.nan_to_num(share))[..., :3]
    rgb[~np.isfinite(map_)] = 1.0
    return np.asarray((rgb * 255).round().astype(np.uint8))


def write_colours(path: Path, rgb: NDArray[np.uint8]) -> None:
    """(H, W, 3) as PNG."""
    _save(path, Image.fromarray(rgb))


def _save(path: Path, image: Image.Image) -> None:
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
