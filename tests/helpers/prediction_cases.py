"""What the tests of predictions share: a quantized model file, photographs of a rendered room, and its exact geometry."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vggtq import Scheme, Weights, quantize_
from vggtq.artifact.write import save
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.procedural import Frames
from vggtq.data.rooms import Rooms
from vggtq.geometry import encode_pose
from vggtq.predict.inputs import Inputs, read_inputs
from vggtq.predict.result import Prediction, as_prediction

SIZE = (56, 84)  # height and width: what images of this size are for a model of 84 pixels


def write_model(folder: Path, bits: int = 8) -> Path:
    """vggt_mini with weights of so many bits."""
    config = validated(compose(["model=vggt_mini"])).model
    loaded = config.load(torch.device("cpu"))
    scheme = Scheme(f"int{bits}_symmetric", Weights(bits=bits))
    quantization = quantize_(loaded.module, scheme, first_last=loaded.module.first_last_layers())
    return save(
        loaded.module, folder / "m.safetensors", scheme, quantization, loaded.weights, config.identity()
    ).path


@cache
def room() -> Frames:
    """Three frames of one room, float64 cameras and depth."""
    return Rooms(frames=3, size=list(SIZE)).render(0)


def photographs(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "c.png")) -> Path:
    """The room's frames as files that preprocessing leaves as they are."""
    for name, image in zip(names, room().images[0], strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def video(folder: Path, count: int, size: tuple[int, int] = (56, 56)) -> Path:
    """So many frames of a window that moves over a picture, of width and height `size`."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (12, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((960, 144), Image.Resampling.BICUBIC)
    for number in range(count):
        left, top = number % (960 - size[0]), 20
        picture.crop((left, top, left + size[0], top + size[1])).save(folder / f"{number:04d}.png")
    return folder


def exact_outputs() -> dict[str, Tensor]:
    """What a network that makes no mistake would say of the room."""
    frames = room()
    confidence = torch.linspace(1, 5, frames.depth[0].numel()).reshape(frames.depth[0].shape)
    return {
        "pose_enc": encode_pose(frames.extrinsics[0], frames.intrinsics[0], SIZE),
        "depth": frames.depth[0, ..., None].float(),
        "depth_conf": confidence.clone(),
        "world_points": frames.points[0].float(),
        "world_points_conf": confidence.flip(0).clone(),
    }


def exact_prediction(folder: Path, with_points: bool = False) -> tuple[Inputs, Prediction]:
    """A prediction of the photographs in `folder` without any error but float32's in depth and points."""
    inputs = read_inputs([str(photographs(folder))], folder.parent / "out", "crop", SIZE[1])
    return inputs, as_prediction(inputs, exact_outputs(), with_points)
