"""How well a model reconstructs held-out rooms, beside a constant predictor that knows only the averages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggtq.data.room_layout import random_layout
from vggtq.data.room_render import Frames, render
from vggtq.data.rooms import scene_seed
from vggtq.geometry import decode_pose
from vggtq.metrics.depth import depth_metrics
from vggtq.metrics.pose import pose_metrics, relative_pose_errors
from vggtq.models.vggt import VGGT

METRICS = ("abs_rel", "delta_1_25", "auc_30", "auc_10", "rra_15", "rta_15", "point_error")


def held_out(split: str, seed: int, scenes: int, frames: int, size_hw: tuple[int, int], spread: float = 1.0) -> Frames:
    """Frames of a split; `spread` below 1 moves the cameras together."""
    seeds = [scene_seed(split, seed, i) for i in range(scenes)]
    return render(random_layout(seeds, frames, spread), size_hw)


def quality(model: VGGT, frames: Frames) -> dict[str, float]:
    """The mean of METRICS over the scenes."""
    model.eval()
    with torch.inference_mode():
        outputs = [model(images) for images in frames.images]
    merged = {key: torch.cat([o[key] for o in outputs]) for key in ("pose_enc", "depth", "world_points")}
    return score(merged, frames)


def score(outputs: Mapping[str, Tensor], frames: Frames) -> dict[str, float]:
    """outputs: pose_enc (B, S, 9), depth (B, S, H, W, 1), world_points (B, S, H, W, 3)."""
    size_hw = (frames.images.shape[-2], frames.images.shape[-1])
    rows = []
    for i in range(len(frames.images)):
        extrinsics, _ = decode_pose(outputs["pose_enc"][i].double(), size_hw)
        pose = pose_metrics(*relative_pose_errors(extrinsics, frames.extrinsics[i]))
        depth = depth_metrics(outputs["depth"][i, ..., 0], frames.depth[i])
        error = point_error(outputs["world_points"][i], frames.points[i])
        rows.append({**pose, **depth, "point_error": error})
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def point_error(predicted: Tensor, truth: Tensor) -> float:
    """Median distance after one scale (that of the mean distances), relative to the scene's: (S, H, W, 3) both.

    The scale of a scene is the mean distance of its points from the first camera.
    """
    p, g = predicted.double().reshape(-1, 3), truth.double().reshape(-1, 3)
    scale = g.norm(dim=-1).mean()
    p = p * (scale / p.norm(dim=-1).mean())
    return float(((p - g).norm(dim=-1) / scale).median())


def export(model: VGGT, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, str(path))
