"""Batches of rooms, rendered on the fly, in the units that the losses want."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.data.room_layout import random_layout
from vggtq.data.room_render import Frames, render
from vggtq.data.rooms import scene_seed
from vggtq.geometry import encode_pose
from vggtq.training.config import Phase

KEPT_BATCHES = 12  # rendered ones that may be used again


@dataclass
class Batch:
    """B scenes of S frames, scaled so that points lie at a mean distance of 1 from the first camera."""

    images: Tensor  # (B, S, 3, H, W)
    depth: Tensor  # (B, S, H, W)
    points: Tensor  # (B, S, H, W, 3)
    poses: Tensor  # (B, S, 3, 4)
    intrinsics: Tensor  # (B, S, 3, 3)

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.images.shape[-2], self.images.shape[-1])

    def encoding(self) -> Tensor:
        """(B, S, 9)."""
        return encode_pose(self.poses, self.intrinsics, self.size_hw)


def as_batch(frames: Frames, order: list[int]) -> Batch:
    """Reorders the frames, makes the first one the world and sets the scale to 1."""
    poses = frames.extrinsics[:, order].float()
    points, first = frames.points[:, order].float(), poses[:, :1]
    points = (points.flatten(1, 3) @ first[:, 0, :, :3].mT + first[:, 0, None, :, 3]).view(points.shape)
    rotation = poses[..., :3] @ first[..., :3].mT
    translation = poses[..., 3:] - rotation @ first[..., 3:]
    scale = points.flatten(1, 3).norm(dim=-1).mean(-1)[:, None, None, None]
    return Batch(
        frames.images[:, order],
        frames.depth[:, order].float() / scale,
        points / scale[..., None],
        torch.cat([rotation, translation / scale], -1),
        frames.intrinsics[:, order].float(),
    )


class RoomStream:
    """Endless batches of the training split."""

    def __init__(self, seed: int, start: int) -> None:
        self.seed, self.next_scene = seed, start
        self.recent: list[Frames] = []
        self.choice = random.Random(f"{seed}/{start}")

    def batch(self, phase: Phase, spread: float) -> Batch:
        if not self.recent or self.choice.random() < phase.fresh:
            self._render(phase, spread)
        frames = self.choice.choice(self.recent)
        order = list(range(frames.images.shape[1]))
        self.choice.shuffle(order)
        return as_batch(frames, order)

    def _render(self, phase: Phase, spread: float) -> None:
        count = self.choice.randint(2, phase.max_frames)
        scenes = max(1, phase.frames_per_step // count)
        seeds = [scene_seed("train", self.seed, self.next_scene + i) for i in range(scenes)]
        self.next_scene += scenes
        # Some scenes of every stage have narrow baselines and some wide ones.
        layout = random_layout(seeds, count, spread * self.choice.uniform(0.6, 1.1))
        size = self.choice.choice(phase.sizes)
        self.recent = [*self.recent[1 - KEPT_BATCHES :], render(layout, (size, size), exact=False)]
