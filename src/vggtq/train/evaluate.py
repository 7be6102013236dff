"""`vggtq train evaluate`: a model on held-out scenes, beside predictors that do not look or that see every frame alone."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggtq.data.objects import Objects
from vggtq.data.procedural import Frames, Procedural, joined
from vggtq.data.rooms import Rooms
from vggtq.geometry import decode_pose, encode_pose
from vggtq.metrics.depth import depth_metrics
from vggtq.metrics.formulas import area_under_curve
from vggtq.metrics.pose import pose_metrics, relative_pose_errors
from vggtq.models.vggt.network import VGGT
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option
from vggtq.train.exchange import exchange_test

DATASETS: dict[str, type[Procedural]] = {"objects": Objects, "rooms": Rooms}
TRAINING_SCENES = 64  # the constant predictor uses their averages
TRAINING_SEED = 1  # not the training's own
AT_A_TIME = 16  # scenes, so that a few hundred of them need little memory
INLIER = 1.03
CPU = torch.device("cpu")
Scores = dict[str, np.ndarray]


@dataclass
class Options:
    """The scenes, and the weights to evaluate."""

    dataset: str = option("what the scenes show", "objects", choices=tuple(DATASETS))
    scenes: int = option("of the test split", 64, least=2)
    frames: int = option("of each scene", 4, least=2)
    size: int | None = option("pixels, square; null: the model's image size", None)
    weights: str | None = option("a safetensors file instead of the package's", None)
    exchange: int = option("scenes whose frames also meet those of other scenes; 0: none", 0, least=0)
    json: str | None = option("where to write the figures as well", None)


COMMAND = Command(
    "train evaluate",
    Options,
    ("", "dataset=rooms scenes=24 json=figures.json", "exchange=24"),
    """\
Recomputes the figures of docs/vggt_mini.md. Depth is scored after one median scale per scene, points after one scale per
scene, poses as in docs/metrics.md.
""",
)


def held_out(kind: str, split: str, seed: int, scenes: int, frames: int, size_hw: tuple[int, int]) -> Frames:
    """The scenes of dataset=KIND."""
    dataset = DATASETS[kind](kind, scenes, frames, list(size_hw), seed, split)
    return joined([dataset.render(index) for index in range(scenes)])


def quality(model: VGGT, frames: Frames, device: torch.device = CPU) -> Scores:
    """The scores of every scene, see `score`."""
    return score(predict(model, frames.images, device), frames)


def predict(model: VGGT, images: Tensor, device: torch.device = CPU) -> dict[str, Tensor]:
    """pose_enc, depth and world_points of scenes (B, S, 3, H, W), on the CPU."""
    model.eval()
    with torch.inference_mode():
        outputs = [model(part.to(device)) for part in images.split(AT_A_TIME)]
    names = ("pose_enc", "depth", "world_points")
    return {name: torch.cat([o[name].float().cpu() for o in outputs]) for name in names}


def predict_poses(model: VGGT, images: Tensor, device: torch.device = CPU) -> Tensor:
    """Pose encodings (B, S, 9), on the CPU, without the time that dense maps take."""
    assert model.camera_head
    model.eval()
    last, parts = model.config.aggregator.depth - 1, []
    with torch.inference_mode():
        for part in images.split(AT_A_TIME):
            tokens = model.aggregator(part.to(device))
            parts.append(model.camera_head(tokens[last])[-1].float().cpu())
    return torch.cat(parts)


def score(outputs: Mapping[str, Tensor], frames: Frames) -> Scores:
    """Each (B,). outputs: pose_enc (B, S, 9), depth (B, S, H, W, 1), world_points (B, S, H, W, 3)."""
    size_hw = (frames.images.shape[-2], frames.images.shape[-1])
    rows = []
    for i in range(len(frames.images)):
        extrinsics, _ = decode_pose(outputs["pose_enc"][i].double(), size_hw)
        row = _pose_scores(*relative_pose_errors(extrinsics, frames.extrinsics[i]))
        depth = outputs["depth"][i, ..., 0].double()
        row |= _depth_scores(depth, frames.depth[i].double())
        rows.append(row | {"point_error": point_error(outputs["world_points"][i], frames.points[i])})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _pose_scores(rotation_deg: Tensor, translation_deg: Tensor) -> dict[str, float]:
    metrics = pose_metrics(rotation_deg, translation_deg)
    worse = torch.maximum(rotation_deg, translation_deg).numpy()
    auc = {f"auc_{limit}": area_under_curve(worse, limit) for limit in (30, 10, 5, 3)}
    return auc | {name: float(metrics[name]) for name in ("rra_15", "rta_15")}


def _depth_scores(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    metrics = depth_metrics(predicted, truth)
    ratio = predicted * float(metrics["scale"]) / truth
    inlier = ((ratio < INLIER) & (ratio > 1 / INLIER)).double().mean()
    kept = {name: float(metrics[name]) for name in ("abs_rel", "delta_1_25")}
    return kept | {"inlier_1_03": float(inlier)}


def point_error(predicted: Tensor, truth: Tensor) -> float:
    """Median distance of points (S, H, W, 3) after one scale, relative to the scene's.

    The scale of a scene is the mean distance of its points from the first camera.
    """
    p, g = predicted.double().reshape(-1, 3), truth.double().reshape(-1, 3)
    scale = g.norm(dim=-1).mean()
    p = p * (scale / p.norm(dim=-1).mean())
    return float(((p - g).norm(dim=-1) / scale).median())


def constant_outputs(training: Frames, truth: Frames) -> dict[str, Tensor]:
    """Predictions without a look at the images: no rotation, and the averages of other scenes.

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


def compare(model: VGGT, kind: str, truth: Frames) -> dict[str, Scores]:
    """Scores of the model and of the constant predictor on scenes of dataset=KIND."""
    frames, size_hw = truth.images.shape[1], (truth.images.shape[-2], truth.images.shape[-1])
    training = held_out(kind, "train", TRAINING_SEED, TRAINING_SCENES, frames, size_hw)
    return {"model": quality(model, truth), "constant": score(constant_outputs(training, truth), truth)}


def export(model: VGGT, path: Path) -> None:
    """Half-precision safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: t.half().cpu().contiguous() for name, t in model.state_dict().items()}, str(partial))
    partial.replace(path)


def shipped(weights: str | None = None) -> tuple[VGGT, int]:
    """vggt_mini and its image size, pixels, with the weights of the package or of a file."""
    from vggtq.config.compose import compose
    from vggtq.config.validate import validated

    config = validated(compose(["model=vggt_mini", *([f"model.source={weights}"] if weights else [])]))
    module = config.model.load(CPU).module
    assert isinstance(module, VGGT)
    return module, config.model.image_size


def described(scores: Scores) -> dict[str, list[float]]:
    """Per score the mean over scenes and its standard error."""
    error = {name: values.std(ddof=1) / len(values) ** 0.5 for name, values in scores.items()}
    return {name: [round(float(v.mean()), 4), round(float(error[name]), 4)] for name, v in scores.items()}


def _work(options: Options) -> None:
    model, size = shipped(options.weights)
    size = options.size or size
    truth = held_out(options.dataset, "test", 0, options.scenes, options.frames, (size, size))
    rows = {who: described(scores) for who, scores in compare(model, options.dataset, truth).items()}
    print(
        f"dataset={options.dataset}: {options.scenes} test scenes of {options.frames} frames at {size}×{size}, "
        "mean ± standard error"
    )
    print(f"{'':14s}{'vggt_mini':>17s}{'constant':>17s}")
    for name in rows["model"]:
        shown = (f"{mean:9.3f} ± {error:.3f}" for mean, error in (rows[who][name] for who in rows))
        print(f"{name:14s}" + "".join(f"{text:>17s}" for text in shown))
    settings = {name: getattr(options, name) for name in ("dataset", "scenes", "frames")} | {"size": size}
    written: dict[str, Any] = settings | rows
    if options.exchange:
        part = Frames(**{f.name: getattr(truth, f.name)[: options.exchange] for f in fields(Frames)})
        written["exchange"] = exchange_test(lambda images: predict_poses(model, images), part)
        print(f"AUC@30 of {len(part.images)} scenes with frames of other scenes:")
        for name, value in written["exchange"].items():
            print(f"{name:14s}{value:9.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(written, indent=1) + "\n")


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
