"""Basis of procedural data: disjoint splits, random numbers per scene, cameras, frames with exact geometry."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from vggtq.data.scene import GroundTruth, Scene
from vggtq.errors import ConfigError, check_choice

SPLITS = ("train", "calibration", "test")
SCENES_PER_SEED = 2**24
MAX_SEED = 2**32
PATCHES = (14, 16)  # of the networks; `vggtq.config.validate` knows which
KEPT_SCENES = 256  # rendered scenes that the runs of a sweep share
KEPT_PIXELS = 2**15  # of one scene, half a MiB; larger ones are rendered each time


def scene_seed(split: str, seed: int, index: int) -> int:
    """The integer a scene is made from; injective, so splits and seeds are disjoint by construction."""
    if not (0 <= index < SCENES_PER_SEED and 0 <= seed < MAX_SEED):
        raise ConfigError(
            f"dataset: seed {seed}, scene {index}; seeds go to {MAX_SEED}, scenes to {SCENES_PER_SEED}"
        )
    return (seed * SCENES_PER_SEED + index) * len(SPLITS) + SPLITS.index(split)


@dataclass(frozen=True)
class Frames:
    """B scenes of S frames. The first camera of each scene is its world frame."""

    images: Tensor  # (B, S, 3, H, W) float32 in [0, 1]
    depth: Tensor  # (B, S, H, W), metres along the optical axis, at the pixel's centre
    points: Tensor  # (B, S, H, W, 3), metres, world
    extrinsics: Tensor  # (B, S, 3, 4) float64, world to camera
    intrinsics: Tensor  # (B, S, 3, 3) float64, pixels
    objects: Tensor  # (B, S, H, W) bool, where a pixel shows an object: neither the room nor the table of a capture


def joined(parts: Sequence[Frames]) -> Frames:
    """All scenes in one."""
    return Frames(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Frames)})


def as_scene(name: str, frames: Frames) -> Scene:
    """The first scene of the batch."""
    truth = GroundTruth(frames.extrinsics[0], frames.intrinsics[0], frames.depth[0].float(), metric=True)
    return Scene(name, frames.images[0], truth=truth)


@dataclass
class Procedural:
    """`count` rendered scenes of `frames` images each, size (height, width) in pixels; the same again for the same seed."""

    name: str = "procedural"
    count: int = 8
    frames: int = 4
    size: list[int] = field(default_factory=lambda: [112, 112])
    seed: int = 0
    split: str = "test"

    max_frames: ClassVar[int]

    def __post_init__(self) -> None:
        check_choice("dataset.split", self.split, SPLITS)
        fits = (all(side >= p and side % p == 0 for side in self.size) for p in PATCHES)
        if len(self.size) != 2 or not any(fits):
            raise ConfigError(
                f"dataset.size={self.size}: give [height, width], multiples of the patch size, 14 or 16, e.g. [112, 112]"
            )
        if self.count < 1:
            raise ConfigError(f"scenes={self.count}: must be 1 or more (dataset.count)")
        if not 1 <= self.frames <= self.max_frames:
            raise ConfigError(
                f"frames={self.frames}: a scene has 1 to {self.max_frames} frames (dataset.frames)"
            )
        scene_seed(self.split, self.seed, self.count - 1)

    def render(self, index: int) -> Frames:
        """The frames of one scene, with a leading axis of 1."""
        raise NotImplementedError

    def scenes(self) -> Iterator[Scene]:
        """Renders one scene at a time; small ones are kept for the next run of this process."""
        options = tuple(
            (f.name, tuple(value) if isinstance(value := getattr(self, f.name), list) else value)
            for f in fields(self)
            if f.name not in ("name", "count")
        )
        make = _kept_scene if self.frames * self.size[0] * self.size[1] <= KEPT_PIXELS else _scene
        for index in range(self.count):
            scene = make(type(self), options, index)
            yield replace(scene, images=scene.images.clone())  # kept scenes are never changed

    def calibration(self, count: int, frames: int, seed: int) -> Self:
        """Scenes of another split."""
        other = "train" if self.split == "calibration" else "calibration"
        return replace(self, count=count, frames=frames, seed=seed, split=other)

    def inputs(self) -> list[Path]:
        """None: the options say it all."""
        return []


def _scene(kind: Callable[..., Procedural], options: tuple[tuple[str, object], ...], index: int) -> Scene:
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in options}
    dataset = kind(count=index + 1, **values)
    return as_scene(f"{dataset.split}-{dataset.seed}-{index}", dataset.render(index))


_kept_scene = functools.lru_cache(KEPT_SCENES)(_scene)


class Draws:
    """Uniform numbers in [0, 1), one independent stream per scene, handed out in order."""

    def __init__(self, seeds: Sequence[int], count: int) -> None:
        """count: how many numbers there are per scene."""
        streams = [
            torch.rand(count, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds
        ]
        self._values, self._next = torch.stack(streams), 0

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(B, *shape) float64."""
        count = math.prod(shape)
        if self._next + count > self._values.shape[1]:
            raise ValueError(
                f"a scene needs more than {self._values.shape[1]} random numbers; use fewer frames"
            )
        values = self._values[:, self._next : self._next + count].unflatten(1, shape or (1,))
        self._next += count
        return low + (high - low) * (values if shape else values[:, 0])


def look_at(centre: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """Rotations (B, S, 3, 3), scene to camera, whose optical axis meets the target; gravity is +y."""
    forward = torch.nn.functional.normalize(target - centre, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0], dtype=centre.dtype).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    below = torch.linalg.cross(forward, right)
    return turn_z(roll) @ torch.stack([right, below, forward], dim=-2)


def turn_x(angle: Tensor) -> Tensor:
    c, s, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    return torch.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).unflatten(-1, (3, 3))


def turn_y(angle: Tensor) -> Tensor:
    c, s, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).unflatten(-1, (3, 3))


def turn_z(angle: Tensor) -> Tensor:
    c, s, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def relative_to_first(rotation: Tensor, centre: Tensor) -> Tensor:
    """World to camera (B, S, 3, 4) with the first camera as the world; rotation: scene to camera, centre: in the scene."""
    relative = rotation @ rotation[:, :1].mT
    translation = rotation @ (centre[:, :1] - centre)[..., None]
    first = torch.eye(3, 4, dtype=rotation.dtype, device=rotation.device).expand(len(rotation), 1, 3, 4)
    return torch.cat([first, torch.cat([relative, translation], -1)[:, 1:]], 1)


def focal_length(field_of_view: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels; field_of_view: radians, along the longer side."""
    return max(size_hw) / 2 / torch.tan(field_of_view / 2)


def intrinsics_of(focal: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(…, 3, 3). The principal point is (W/2, H/2) with pixel centres at integers, as VGGT's pose encoding implies."""
    height, width = size_hw
    matrix = focal.new_zeros(*focal.shape, 3, 3)
    matrix[..., 0, 0] = matrix[..., 1, 1] = focal
    matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = width / 2, height / 2, 1
    return matrix
