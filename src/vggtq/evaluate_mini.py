"""How well a model reconstructs held-out rooms, beside a constant predictor that knows only averages.

python -m vggtq.evaluate_mini recomputes the figures of docs/vggt_mini.md. Depth is scored after one median scale per
scene, points after one scale per scene, poses as in vggtq.metrics.pose.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggtq.data.room_layout import random_layout
from vggtq.data.room_render import Frames, render
from vggtq.data.rooms import SAMPLES, scene_seed
from vggtq.geometry import decode_pose, encode_pose
from vggtq.metrics.depth import depth_metrics
from vggtq.metrics.pose import pose_metrics, relative_pose_errors
from vggtq.models.vggt import VGGT

METRICS = ("abs_rel", "delta_1_25", "auc_30", "auc_10", "rra_15", "rta_15", "point_error")
TRAINING_SCENES = 64  # of which the constant predictor takes the averages
TRAINING_SEED = 1  # not the training's own


def held_out(
    split: str, seed: int, scenes: int, frames: int, size_hw: tuple[int, int], spread: float = 1.0
) -> Frames:
    """The scenes of dataset=rooms; `spread` below 1 moves the cameras together."""
    parts = [
        render(random_layout([scene_seed(split, seed, i)], frames, spread), size_hw, SAMPLES)
        for i in range(scenes)  # one by one: larger batches spend their time on page faults
    ]
    names = [f.name for f in fields(Frames)]
    return Frames(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


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
    """Median distance of points (S, H, W, 3) after one scale, relative to the scene's.

    The scale of a scene is the mean distance of its points from the first camera.
    """
    p, g = predicted.double().reshape(-1, 3), truth.double().reshape(-1, 3)
    scale = g.norm(dim=-1).mean()
    p = p * (scale / p.norm(dim=-1).mean())
    return float(((p - g).norm(dim=-1) / scale).median())


def constant_outputs(training: Frames, truth: Frames) -> dict[str, Tensor]:
    """What is predicted without looking: no rotation, and the averages of other scenes.

    Per place in the sequence the mean translation and mean point map, the mean field of view, the mean depth map;
    averaged over `training`, each scene at a mean point distance of 1. The same for each scene of `truth`.
    """
    scenes, frames, height, width = truth.depth.shape
    scale = training.points.flatten(1, 3).norm(dim=-1).mean(-1)[:, None, None, None]
    encoding = encode_pose(training.extrinsics, training.intrinsics, (height, width)).mean(0)
    encoding[:, :3] = (training.extrinsics[..., 3] / scale[..., 0]).mean(0)
    encoding[:, 3:7] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    depth = (training.depth / scale).mean((0, 1))
    points = (training.points / scale[..., None]).mean(0)
    return {
        "pose_enc": encoding.expand(scenes, -1, -1),
        "depth": depth[..., None].expand(scenes, frames, -1, -1, -1),
        "world_points": points.expand(scenes, -1, -1, -1, -1),
    }


def compare(model: VGGT, scenes: int, frames: int, size_hw: tuple[int, int]) -> dict[str, dict[str, float]]:
    """METRICS of the model and of the constant predictor on the test split."""
    truth = held_out("test", 0, scenes, frames, size_hw)
    training = held_out("train", TRAINING_SEED, TRAINING_SCENES, frames, size_hw)
    return {"model": quality(model, truth), "constant": score(constant_outputs(training, truth), truth)}


def export(model: VGGT, path: Path) -> None:
    """Half-precision safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, str(path))


def shipped(weights: str | None = None) -> tuple[VGGT, int]:
    """vggt_mini and its image size, pixels, with the weights of the package or of a file."""
    from vggtq.config import compose, validated

    config = validated(compose(["model=vggt_mini", *([f"model.source={weights}"] if weights else [])]))
    module = config.model.load(torch.device("cpu")).module
    assert isinstance(module, VGGT)
    return module, config.model.image_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, help="pixels, square; default: the model's image size")
    parser.add_argument("--weights", help="a safetensors file instead of the package's")
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    options = parser.parse_args()
    model, size = shipped(options.weights)
    size = options.size or size
    results = compare(model, options.scenes, options.frames, (size, size))
    print(f"{options.scenes} test scenes of {options.frames} frames at {size}×{size}")
    print(f"{'':14s}{'vggt_mini':>12s}{'constant':>12s}")
    for name in METRICS:
        print(f"{name:14s}{results['model'][name]:12.3f}{results['constant'][name]:12.3f}")
    if options.json:
        rounded = {who: {k: round(v, 4) for k, v in row.items()} for who, row in results.items()}
        settings = {"scenes": options.scenes, "frames": options.frames, "size": size}
        options.json.write_text(json.dumps(settings | rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
