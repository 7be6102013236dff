"""Batches from a pool of rendered scenes, in the units that the losses want."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.data.objects import layout as objects_layout
from vggtq.data.objects import render as objects_render
from vggtq.data.procedural import Frames, scene_seed
from vggtq.data.rooms import layout as rooms_layout
from vggtq.data.rooms import render as rooms_render
from vggtq.geometry import encode_pose, unproject_depth
from vggtq.train.config import PoolConfig, TrainConfig


@dataclass
class Batch:
    """B scenes of S frames. The first camera is the world, points lie at a mean distance of 1 from it."""

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


def as_batch(images: Tensor, depth: Tensor, poses: Tensor, intrinsics: Tensor) -> Batch:
    """Makes the first frame the world and sets the scale to 1; shapes as in `Batch`, any world and scale."""
    first = poses[:, :1]
    rotation = poses[..., :3] @ first[..., :3].mT
    translation = poses[..., 3:] - rotation @ first[..., 3:]
    extrinsics = torch.cat([rotation, translation], -1)
    flat = unproject_depth(depth.flatten(0, 1), extrinsics.flatten(0, 1), intrinsics.flatten(0, 1))
    points = flat.unflatten(0, depth.shape[:2])
    scale = points.flatten(1, 3).norm(dim=-1).mean(-1)[:, None, None, None]
    return Batch(
        images,
        depth / scale,
        points / scale[..., None],
        torch.cat([rotation, translation / scale], -1),
        intrinsics,
    )


class Pool:
    """The latest scenes of the training split before `next_scene`, from which batches are drawn at random.

    They lie on the device in one tensor per quantity, images (N, V, 3, H, W) in 8 bits and depths (N, V, H, W) in half
    precision, so that a batch is one look-up in each; a new scene takes the place of the oldest one.
    """

    def __init__(
        self, config: PoolConfig, render: Callable[[int], Frames], next_scene: int, device: torch.device
    ) -> None:
        """render: a scene's number to its frames on the device, with a leading axis of 1."""
        self.config, self.render, self.device = config, render, device
        # A training that is taken up again starts with the scenes that it rendered last.
        self.next_scene = max(0, next_scene - config.first_scenes)
        self._owed = 0.0
        self._held, self._place = 0, 0
        self._tensors: tuple[Tensor, ...] = ()
        for _ in range(config.first_scenes):
            self._add()

    def __len__(self) -> int:
        return self._held

    def renew(self) -> None:
        """Adds as many scenes as one step is worth; the oldest ones leave once the pool is full."""
        # Until it is full it grows faster, since few scenes are soon known by heart.
        self._owed += self.config.renewed * (1 if len(self) == self.config.scenes else 2)
        while self._owed >= 1:
            self._owed -= 1
            self._add()

    def _add(self) -> None:
        frames = self.render(self.next_scene)
        scene = (
            (frames.images[0] * 255).round().byte(),
            frames.depth[0].half(),
            frames.extrinsics[0].float(),
            frames.intrinsics[0].float(),
        )
        if not self._tensors:
            self._tensors = tuple(t.new_empty(self.config.scenes, *t.shape) for t in scene)
        for mine, new in zip(self._tensors, scene, strict=True):
            mine[self._place] = new
        self._place = (self._place + 1) % self.config.scenes
        self._held = min(self._held + 1, self.config.scenes)
        self.next_scene += 1

    def draw(self, scenes: int, frames: int, brightness: float, generator: torch.Generator) -> Batch:
        """`frames` views of each of `scenes` scenes in random order, all of a scene lighter or darker by one factor."""
        which = torch.randint(len(self), (scenes, 1), generator=generator).to(self.device)
        order = torch.rand(scenes, self.config.views, generator=generator).argsort(1)[:, :frames]
        factor = torch.exp(brightness * (2 * torch.rand(scenes, 1, 1, 1, 1, generator=generator) - 1))
        images, depth, poses, intrinsics = (t[which, order.to(self.device)] for t in self._tensors)
        images = images.float() / 255 * factor.to(self.device)
        return as_batch(images.clamp(max=1), depth.float(), poses, intrinsics)


def rendering(config: TrainConfig, device: torch.device) -> Callable[[int], Frames]:
    """Renders scenes of the training split by their number."""
    size_hw, pool = (config.size, config.size), config.pool

    def objects(index: int) -> Frames:
        seeds = [scene_seed("train", config.seed, index)]
        layout = objects_layout.random_layout(seeds, pool.views).to(device)
        return objects_render.render(layout, size_hw, pool.antialiased, exact=False, compiled=pool.compiled)

    def rooms(index: int) -> Frames:
        seeds = [scene_seed("train", config.seed, index)]
        layout = rooms_layout.random_layout(seeds, pool.views).to(device)
        return rooms_render.render(layout, size_hw, 2 if pool.antialiased else 1, exact=False)

    return {"objects": objects, "rooms": rooms}[config.dataset]
