"""A run's geometry for the report page: `preview.safetensors`, below 300 kB for each scene.

Of up to FRAMES frames, on a grid of up to GRID pixels: the images, depth of FP32 and of the quantized model, up to POINTS
points with colours, and cameras. Depth and points are 16-bit levels between a smallest and a largest value: level/65534 of
the way, 65535 where they are not finite. Both models' points belong to the same pixels, chosen by FP32's confidence.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from vggtq.data.scene import Scene
from vggtq.files.atomic import replacing
from vggtq.geometry import unproject_depth
from vggtq.metrics.points import confident
from vggtq.network.outputs import cameras_of, confidence_of

FRAMES = 4
GRID = 84  # pixels of the longer side, at most
POINTS = 1500  # per frame
LEVELS = 65534  # of 16-bit values; 65535 marks what is not finite

Outputs = dict[str, Tensor]
Levels = tuple[NDArray[np.uint16], list[float], list[float]]


class Preview:
    """Scenes as they are compared, small enough to keep; `write` leaves the file."""

    def __init__(self) -> None:
        self.scenes: list[dict[str, Any]] = []
        self.tensors: dict[str, NDArray[Any]] = {}

    def add(self, scene: Scene, reference: Outputs, quantized: Outputs) -> None:
        """Outputs as from `LoadedModel.predict`; a model without depth or cameras has nothing to show."""
        count, _, height, width = scene.images.shape
        cameras = [cameras_of(outputs, (height, width)) for outputs in (reference, quantized)]
        if "depth" not in reference or None in cameras:
            return
        frames = torch.linspace(0, count - 1, min(count, FRAMES)).round().long()
        stride = -(-max(height, width) // GRID)
        images = (scene.images[frames, :, ::stride, ::stride].clamp(0, 1) * 255).round().byte()
        image = images.permute(0, 2, 3, 1).contiguous().numpy()
        chosen = _chosen(reference, frames, stride)
        prefix = f"{len(self.scenes)}."
        self.tensors |= {f"{prefix}image": image, f"{prefix}color": image.reshape(-1, 3)[chosen]}
        entry: dict[str, Any] = {
            "name": scene.name,
            "frames": frames.tolist(),
            "grid": list(image.shape[1:3]),
        }
        sides = (("reference", reference), ("quantized", quantized))
        for (side, outputs), camera in zip(sides, cameras, strict=True):
            assert camera is not None
            extrinsics, intrinsics = camera
            points = outputs.get("world_points")
            if points is None:
                points = unproject_depth(outputs["depth"].double(), extrinsics, intrinsics)
            cloud = points[frames, ::stride, ::stride].reshape(-1, 3)[torch.from_numpy(chosen)]
            depth, *depth_range = _levels(outputs["depth"][frames, ::stride, ::stride, 0].reshape(-1, 1))
            positions, *box = _levels(cloud)
            self.tensors |= {
                f"{prefix}{side}.depth": depth.reshape(image.shape[:3]),
                f"{prefix}{side}.points": positions,
                f"{prefix}{side}.cameras": _cameras(extrinsics[frames], intrinsics[frames]),
            }
            entry[side] = {"depth": [low for (low,) in depth_range], "points": box}
        self.scenes.append(entry)

    def write(self, path: Path) -> str | None:
        """Writes the file whole or not at all; returns its name, None without anything to show."""
        if not self.scenes:
            path.unlink(missing_ok=True)
            return None
        with replacing(path) as temporary:
            temporary.write_bytes(save(self.tensors, {"scenes": json.dumps(self.scenes)}))
        return path.name


def _chosen(reference: Outputs, frames: Tensor, stride: int) -> NDArray[np.int64]:
    """Up to POINTS pixels of each frame, of those FP32 is confident of; the same ones whatever is compared with it."""
    confidence = confidence_of(reference, points=True)
    shape = reference["depth"][..., 0].shape
    mask = (
        confident(confidence.reshape(shape))
        if confidence is not None
        else torch.ones(shape, dtype=torch.bool)
    )
    draw = np.random.default_rng(0)
    chosen = []
    for i, frame in enumerate(mask[frames, ::stride, ::stride].reshape(len(frames), -1).numpy()):
        pixels = np.flatnonzero(frame)
        picked = draw.permutation(pixels)[:POINTS]
        chosen.append(np.sort(picked) + i * len(frame))
    return np.concatenate(chosen)


def _levels(values: Tensor) -> Levels:
    """(N, C) to 16-bit levels between the smallest and the largest finite row of each channel."""
    array = values.double().cpu().numpy()
    finite = np.isfinite(array).all(axis=1)
    low, high = (
        (array[finite].min(axis=0), array[finite].max(axis=0))
        if finite.any()
        else (np.zeros(array.shape[1]),) * 2
    )
    span = np.where(high > low, high - low, 1.0)
    levels = np.full(array.shape, LEVELS + 1, dtype=np.uint16)
    levels[finite] = np.round((array[finite] - low) / span * LEVELS).astype(np.uint16)
    return levels, low.tolist(), high.tolist()


def _cameras(extrinsics: Tensor, intrinsics: Tensor) -> NDArray[np.float32]:
    """(F, 14): extrinsics (3 × 4, world to camera) and the tangents of half the horizontal and vertical field of view."""
    half = torch.stack([intrinsics[:, i, 2] / intrinsics[:, i, i] for i in (0, 1)], dim=-1)
    return torch.cat([extrinsics.flatten(1), half], dim=1).float().cpu().numpy()
