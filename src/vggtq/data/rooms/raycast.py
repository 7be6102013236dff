"""Exact ray casting of a room and its convex furniture, batched over scenes, frames and pixels.

A solid is the image of a unit shape under a rotation, a centre and half sizes. Camera rays have z = 1, so the ray
parameter of a hit is its depth. Left out: shadows, reflections, hits from inside furniture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PARALLEL = 1e-12
ROOM, BOX, SPHERE, CYLINDER = range(4)  # a room is a box seen from inside; cylinders stand along their y axis


@dataclass(frozen=True)
class Solids:
    """K solids in each of B scenes; the first one is the room, which closes the scene."""

    kinds: tuple[int, ...]  # K values, the same in every scene
    rotation: Tensor  # (B, K, 3, 3), scene to solid
    centre: Tensor  # (B, K, 3), metres
    half: Tensor  # (B, K, 3), half sizes in metres


@dataclass(frozen=True)
class Hits:
    """The nearest surface along every ray."""

    depth: Tensor  # (B, S, P), metres along the optical axis
    solid: Tensor  # (B, S, P) int64, index of the solid
    local: Tensor  # (B, S, 3, P), the point in the solid's own frame, metres


def pixel_rays(size_hw: tuple[int, int], focal: Tensor, samples: int) -> Tensor:
    """Directions (B, S, 3, P·samples²) in camera axes with z = 1; samples vary slowest, pixels row by row.

    focal: (B, S), pixels. One sample is the pixel's centre. The principal point is (W/2, H/2) with pixel centres at
    integers, as VGGT's pose encoding implies.
    """
    height, width = size_hw
    steps, rows, columns = (torch.arange(n).to(focal) for n in (samples, height, width))
    shift = (steps + 0.5) / samples - 0.5
    u = (columns + shift[:, None] - width / 2).view(1, samples, 1, width)
    v = (rows + shift[:, None] - height / 2).view(samples, 1, height, 1)
    shape = (samples, samples, height, width)
    grid = torch.stack([u.expand(shape).flatten(), v.expand(shape).flatten()])
    plane = grid / focal[..., None, None]
    return torch.cat([plane, torch.ones_like(plane[..., :1, :])], dim=-2)


def cast(solids: Solids, centre: Tensor, rotation: Tensor, rays: Tensor) -> Hits:
    """The first hits of the rays (B, S, 3, P). centre: (B, S, 3), rotation: (B, S, 3, 3) scene to camera."""
    best: Hits | None = None
    for k, kind in enumerate(solids.kinds):
        to_solid = solids.rotation[:, k, None] @ rotation.mT
        direction = to_solid @ rays
        offset = centre - solids.centre[:, k, None]
        origin = (solids.rotation[:, k, None] @ offset[..., None]).expand(*offset.shape, 1)
        half = solids.half[:, k, None, :, None]
        near, far = _interval(kind, origin, direction, half)
        depth = far if kind == ROOM else near
        if best is None:
            local = origin + depth[..., None, :] * direction
            best = Hits(depth, torch.full_like(depth, k, dtype=torch.int64), local)
            continue
        hit = (near < far) & (near > 0) & (near < best.depth)
        best = Hits(
            torch.where(hit, near, best.depth),
            torch.where(hit, k, best.solid),
            torch.where(hit[..., None, :], origin + near[..., None, :] * direction, best.local),
        )
    assert best is not None
    return best


def _interval(kind: int, origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters (B, S, P) of entry and exit; entry > exit for a miss. All but `direction` broadcast over P."""
    if kind in (ROOM, BOX):
        near, far = _slabs(origin, direction, half)
        return near.amax(-2), far.amin(-2)
    if kind == SPHERE:
        return _round(origin, direction, half[..., :1, :])
    # A finite cylinder is an infinite one cut by a slab.
    flat = [0, 2]
    near, far = _round(origin[..., flat, :], direction[..., flat, :], half[..., :1, :])
    low, high = _slabs(origin[..., 1:2, :], direction[..., 1:2, :], half[..., 1:2, :])
    return torch.maximum(near, low[..., 0, :]), torch.minimum(far, high[..., 0, :])


def _slabs(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    # A ray parallel to a slab would divide by zero, and inf − inf is NaN.
    inverse = 1 / torch.where(direction.abs() < PARALLEL, PARALLEL, direction)
    middle, reach = -origin * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _round(origin: Tensor, direction: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """|o + t·d| = r over the given axes (2: cylinder, 3: sphere)."""
    a = (direction * direction).sum(-2)
    b = (origin * direction).sum(-2)
    c = (origin * origin).sum(-2) - radius[..., 0, :] ** 2
    root = (b * b - a * c).sqrt()  # NaN where the ray misses, which no comparison accepts
    return (-b - root) / a, (-b + root) / a
