"""Procedural rooms with exact geometry: an endless data set that needs no download (dataset=rooms).

python -m vggtq.data.rooms --preview out.png draws a contact sheet. The integer that a scene is made from is unique
to its split, seed and place in the data set, so no two splits share a scene. Rooms are closed, so every pixel has
depth; units are metres.
"""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vggtq.data.room_layout import MAX_FRAMES, random_layout
from vggtq.data.room_render import Frames, render
from vggtq.data.scene import GroundTruth, Scene
from vggtq.errors import ConfigError, did_you_mean

SPLITS = ("train", "calibration", "test")
SCENES_PER_SEED = 2**24
MAX_SEED = 2**32
PATCH = 14
SAMPLES = 3  # squared: rays per pixel for colour
KEPT_SCENES = 256  # rendered scenes that the runs of a sweep share
KEPT_PIXELS = 2**15  # of one scene, half a MiB; larger ones are rendered each time


def scene_seed(split: str, seed: int, index: int) -> int:
    """The integer a room is made from; injective, so splits and seeds are disjoint by construction."""
    if not (0 <= index < SCENES_PER_SEED and 0 <= seed < MAX_SEED):
        raise ConfigError(
            f"rooms: seed {seed}, scene {index}; seeds go to {MAX_SEED}, scenes to {SCENES_PER_SEED}"
        )
    return (seed * SCENES_PER_SEED + index) * len(SPLITS) + SPLITS.index(split)


@dataclass
class Rooms:
    """`scenes` rooms of `frames` images each, size (height, width) in pixels; the same again for the same seed."""

    name: str = "rooms"
    count: int = 8
    frames: int = 4
    size: list[int] = field(default_factory=lambda: [112, 112])
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(
                f"dataset.split={self.split} is not one of {', '.join(SPLITS)}{did_you_mean(self.split, SPLITS)}"
            )
        if len(self.size) != 2 or any(side < PATCH or side % PATCH for side in self.size):
            raise ConfigError(
                f"dataset.size={self.size}: give [height, width], multiples of {PATCH}, e.g. [112, 112]"
            )
        if self.count < 1 or not 1 <= self.frames <= MAX_FRAMES:
            raise ConfigError(
                f"dataset: {self.count} scenes of {self.frames} frames; use at least 1 and at most {MAX_FRAMES} frames"
            )
        scene_seed(self.split, self.seed, self.count - 1)

    def scenes(self) -> Iterator[Scene]:
        """Renders one scene at a time; small ones are kept for the next run of this process."""
        height, width = self.size
        make = _kept_scene if self.frames * height * width <= KEPT_PIXELS else _scene
        for index in range(self.count):
            scene = make(self.split, self.seed, index, self.frames, height, width)
            yield replace(scene, images=scene.images.clone())  # nobody changes what is kept

    def calibration(self, count: int, frames: int, seed: int) -> "Rooms":
        """Rooms of another split."""
        other = "train" if self.split == "calibration" else "calibration"
        return replace(self, count=count, frames=frames, seed=seed, split=other)

    def inputs(self) -> list[Path]:
        """None: the options say it all."""
        return []

    def render(self, index: int) -> Frames:
        """The frames of one scene, with a leading axis of 1."""
        layout = random_layout([scene_seed(self.split, self.seed, index)], self.frames)
        return render(layout, (self.size[0], self.size[1]), SAMPLES)


def _scene(split: str, seed: int, index: int, frames: int, height: int, width: int) -> Scene:
    rooms = Rooms(count=index + 1, frames=frames, size=[height, width], seed=seed, split=split)
    return as_scene(f"{split}-{seed}-{index}", rooms.render(index))


_kept_scene = functools.lru_cache(KEPT_SCENES)(_scene)


def as_scene(name: str, frames: Frames) -> Scene:
    """The first scene of the batch."""
    truth = GroundTruth(frames.extrinsics[0], frames.intrinsics[0], frames.depth[0].float(), metric=True)
    return Scene(name, frames.images[0], truth=truth)


def contact_sheet(dataset: Rooms, columns: int = 2) -> np.ndarray:
    """(H, W, 3) uint8: per scene a row of colours above a row of depths, near ones bright."""
    tiles = []
    for scene in dataset.scenes():
        assert scene.truth.depth is not None
        colour = scene.images.permute(0, 2, 3, 1).numpy()
        tiles.append(np.concatenate([_row(colour), _row(_depth_colours(scene.truth.depth))]))
    tiles += [np.ones_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return (np.concatenate(rows) * 255).round().astype(np.uint8)


def _row(frames: np.ndarray) -> np.ndarray:
    """(S, H, W, 3) to one row with a white margin below and at the right."""
    padded = np.pad(frames, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), axis=1)


def _depth_colours(depth: Tensor) -> np.ndarray:
    """(S, H, W, 3): inverse depth between the scene's 2nd and 98th percentile."""
    inverse = 1 / depth.double().numpy()
    low, high = np.percentile(inverse, (2, 98))
    return np.asarray(matplotlib.colormaps["magma"](((inverse - low) / (high - low)).clip(0, 1))[..., :3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preview", type=Path, required=True, help="PNG to write")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[168, 168], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=SPLITS)
    options = parser.parse_args()
    dataset = Rooms("rooms", options.scenes, options.frames, options.size, options.seed, options.split)
    torch.set_grad_enabled(False)
    Image.fromarray(contact_sheet(dataset)).save(options.preview)


if __name__ == "__main__":
    main()
