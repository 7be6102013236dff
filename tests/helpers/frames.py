"""Photographs of noise, and where their pixels go, for tests of what uses them."""

from pathlib import Path

import numpy as np
from PIL import Image

from vggtq.data.fit import fit
from vggtq.data.preprocess import FrameTransform, check_options, frame_transform

RNG = np.random.default_rng(0)


def transform_of(
    width: int, height: int, mode: str = "crop", size: int = 518, patch: int = 14
) -> FrameTransform:
    """That of one photograph by itself."""
    check_options(mode, size, patch)
    return frame_transform(fit(width, height, mode, size, patch, (width, height)), width, height)


def save(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    channels = {"RGB": 3, "RGBA": 4, "LA": 2, "L": 0}[mode]
    shape = (height, width, channels) if channels else (height, width)
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path
