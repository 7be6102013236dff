"""Random rooms: their size, furniture, surfaces, light and camera paths, all from one integer per scene.

Room axes are OpenCV's with gravity along +y; the origin is the room's centre. Cameras are placed first and furniture
that would come too close to one is left out, so every camera sees something and is inside nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.data.procedural import Draws, look_at, turn_x, turn_y
from vggtq.data.rooms.raycast import BOX, CYLINDER, ROOM, SPHERE, Solids
from vggtq.data.rooms.textures import COLUMNS, POSTERS, WIDTH

KINDS = (ROOM, BOX, BOX, BOX, BOX, BOX, SPHERE, SPHERE, CYLINDER, CYLINDER)
BOARD = 5  # the box that leans: a slanted plane
FACES = 6
CLEARANCE = 0.45  # metres between a camera and the outline of furniture
WALL_CLEARANCE = 0.4
ARC = (math.radians(60), math.radians(130))  # of cameras that turn around what they look at
DRAWS = 4096  # uniform numbers per scene
MAX_FRAMES = 64  # for which DRAWS are enough


@dataclass(frozen=True)
class Layout:
    """B scenes, everything in room axes and metres."""

    solids: Solids
    faces: Tensor  # (B, K, 6, WIDTH), see room_textures.COLUMNS
    light: Tensor  # (B, 3)
    centre: Tensor  # (B, S, 3), camera centres
    rotation: Tensor  # (B, S, 3, 3), room to camera
    field_of_view: Tensor  # (B, S), radians, along the longer side

    def to(self, device: torch.device) -> "Layout":
        s = self.solids
        solids = Solids(s.kinds, s.rotation.to(device), s.centre.to(device), s.half.to(device))
        rest = (self.faces, self.light, self.centre, self.rotation, self.field_of_view)
        return Layout(solids, *(tensor.to(device) for tensor in rest))


def random_layout(seeds: Sequence[int], frames: int) -> Layout:
    """One room per seed."""
    draws = Draws(seeds, DRAWS)
    room = torch.stack([draws.uniform(1.8, 2.9), draws.uniform(1.2, 1.55), draws.uniform(1.8, 2.9)], dim=-1)
    light = draws.uniform(-0.6, 0.6, 3) * room
    light[:, 1] = -0.8 * room[:, 1]
    solids = _furniture(draws, room)
    faces = _surfaces(draws, solids)
    centre, rotation, field_of_view = _cameras(draws, room, frames)
    return Layout(_clear_of(solids, centre), faces, light, centre, rotation, field_of_view)


def _furniture(draws: Draws, room: Tensor) -> Solids:
    """The room and everything in it. Pieces that a scene does not have lie outside the room, where no ray meets them."""
    count = len(KINDS) - 1
    low = torch.tensor(
        [
            [0.3, 0.4, 0.2],
            [0.2, 0.2, 0.2],
            [0.2, 0.2, 0.2],
            [0.12, 0.12, 0.12],
            [0.4, 0.02, 0.4],
            [0.2] * 3,
            [0.15] * 3,
            [0.12, 0.3, 0.12],
            [0.15, 0.15, 0.15],
        ]
    )
    high = torch.tensor(
        [
            [0.7, 1.1, 0.4],
            [0.6, 0.45, 0.45],
            [0.45, 0.7, 0.45],
            [0.3, 0.3, 0.3],
            [0.8, 0.04, 0.8],
            [0.5] * 3,
            [0.35] * 3,
            [0.3, 1.2, 0.3],
            [0.45, 0.4, 0.45],
        ]
    )
    half = low + (high - low) * draws.uniform(0, 1, count, 3)
    is_round = torch.tensor([kind in (SPHERE, CYLINDER) for kind in KINDS[1:]])
    half[:, is_round, 2] = half[:, is_round, 0]
    is_sphere = torch.tensor([kind == SPHERE for kind in KINDS[1:]])
    half[:, is_sphere, 1] = half[:, is_sphere, 0]
    angle, radius = draws.uniform(0, 2 * math.pi, count), draws.uniform(0.25, 0.95, count)
    centre = (
        torch.stack([angle.cos() * radius, torch.ones_like(angle), angle.sin() * radius], -1) * room[:, None]
    )
    centre[..., 1] -= half[..., 1]
    # Every other box stands square to the walls.
    yaw = draws.uniform(-math.pi, math.pi, count)
    yaw = torch.where(draws.uniform(0, 1, count) < 0.4, (yaw / (math.pi / 2)).round() * (math.pi / 2), yaw)
    tilt = torch.zeros_like(yaw)
    tilt[:, BOARD - 1] = draws.uniform(0.3, 1.1)
    centre[:, BOARD - 1, 1] -= 0.9 * half[:, BOARD - 1, 2] * tilt[:, BOARD - 1].sin()
    centre[draws.uniform(0, 1, count) < 0.2] = 1e3
    rotation = turn_x(tilt) @ turn_y(yaw)
    identity = torch.eye(3, dtype=torch.float64).expand(len(room), 1, 3, 3)
    return Solids(
        KINDS,
        torch.cat([identity, rotation], 1),
        torch.cat([torch.zeros_like(room)[:, None], centre], 1),
        torch.cat([room[:, None], half], 1),
    )


def _clear_of(solids: Solids, cameras: Tensor) -> Solids:
    """Moves furniture out of the room where a camera (B, S, 3) is within its outline plus the clearance."""
    offset = solids.centre[:, :, None] - cameras[:, None]
    flat, height = solids.half[..., [0, 2]].norm(dim=-1), solids.half[..., 1] + solids.half[..., 2]
    near = (offset[..., [0, 2]].norm(dim=-1) < (flat + CLEARANCE)[..., None]) & (
        offset[..., 1].abs() < (height + CLEARANCE)[..., None]
    )
    near = near.any(-1)
    near[:, 0] = False
    return Solids(solids.kinds, solids.rotation, solids.centre.where(~near[..., None], 1e3), solids.half)


def _surfaces(draws: Draws, solids: Solids) -> Tensor:
    """Random faces (B, K, 6, WIDTH); posters lie on the faces of the room and of boxes alike."""
    batch, count = solids.half.shape[:2]
    shape = (count, FACES)
    faces = torch.zeros(batch, count, FACES, WIDTH, dtype=torch.float64)

    def put(name: str, values: Tensor) -> None:
        start, width = COLUMNS[name]
        faces[..., start : start + width] = values if values.ndim == 4 else values[..., None]

    angle = draws.uniform(-0.6, 0.6, *shape) * (draws.uniform(0, 1, *shape) < 0.4)
    size = solids.half.amin(-1, keepdim=True).clamp(max=0.6) / 0.6  # small things wear small patterns
    put("first", draws.uniform(0.05, 0.95, *shape, 3))
    put("second", draws.uniform(0.05, 0.95, *shape, 3))
    put("pattern", draws.uniform(0, 4, *shape).floor())
    put("scale", draws.uniform(0.12, 0.45, *shape) * (0.4 + 0.6 * size))
    put("turn", torch.stack([angle.cos(), angle.sin()], -1))
    put("tile_scale", draws.uniform(0.45, 1.3, *shape) * (0.3 + 0.7 * size))
    put("tile_strength", draws.uniform(0.25, 0.75, *shape))
    put("noise_scale", draws.uniform(0.05, 0.3, *shape))
    put("noise_strength", draws.uniform(0.1, 0.6, *shape))
    put("seed", draws.uniform(0, 2**23, *shape).floor())
    extent = solids.half[:, :, [2, 0, 0]][:, :, :, None], solids.half[:, :, [1, 2, 1]][:, :, :, None]
    reach = torch.cat(extent, -1).repeat_interleave(2, dim=2).repeat(1, 1, 1, POSTERS)
    put("poster_centre", draws.uniform(-0.75, 0.75, *shape, 2 * POSTERS) * reach)
    hung = (draws.uniform(0, 1, *shape, POSTERS) < 0.7).repeat_interleave(2, dim=-1)
    put("poster_half", draws.uniform(0.1, 0.3, *shape, 2 * POSTERS) * reach.clamp(max=2) * hung)
    put("poster_cells", draws.uniform(2.0, 7.0, *shape, POSTERS) / (0.3 + 0.7 * size[..., None]))
    return faces


def _cameras(draws: Draws, room: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, rotations and fields of view: an orbit, a walk or scattered viewpoints, one kind per scene, in random order.

    Baselines are about half of the depth: much shorter ones have no direction to speak of, and longer ones no common view.
    """
    angle, radius = draws.uniform(0, 2 * math.pi), draws.uniform(0.6, 0.9)
    start = torch.stack([angle.cos() * radius, torch.zeros_like(angle), angle.sin() * radius], -1) * room
    target = -draws.uniform(0.1, 0.5)[:, None] * start + draws.uniform(-0.3, 0.3, 3)
    start[:, 1] = draws.uniform(-0.7, 0.2)
    target[:, 1] = draws.uniform(-0.3, 0.7)
    kind = draws.uniform(0, 3).floor()[:, None, None]
    # Frames sit at evenly spaced places of a path, −½ to ½, whatever their number.
    order = draws.uniform(0, 1, frames).argsort(-1)
    place = (order + draws.uniform(-0.2, 0.2, frames)) / max(frames - 1, 1) - 0.5
    orbit = _orbit(start, target, place * draws.uniform(*ARC)[:, None])
    # A walk crosses the line of sight.
    across = torch.linalg.cross(target - start, target.new_tensor([0.0, 1.0, 0.0]).expand_as(start))
    stride = across / across.norm(dim=-1, keepdim=True) + draws.uniform(-0.3, 0.3, 3)
    walk = start[:, None] + place[..., None] * (stride * draws.uniform(2.0, 3.2)[:, None])[:, None]
    sideways = place[..., None] * 2.4 * (across / across.norm(dim=-1, keepdim=True))[:, None]
    scattered = start[:, None] + sideways + draws.uniform(-0.5, 0.5, frames, 3)
    centre = torch.where(kind == 0, orbit, torch.where(kind == 1, walk, scattered))
    centre = centre + draws.uniform(-0.1, 0.1, frames, 3)
    limit = (room - WALL_CLEARANCE)[:, None]
    centre = centre.clamp(-limit, limit)
    gaze = target[:, None] + draws.uniform(-0.25, 0.25, frames, 3)
    roll = math.radians(6) * draws.uniform(-1, 1, frames)
    zoom = draws.uniform(math.radians(58), math.radians(78))[:, None]
    return centre, look_at(centre, gaze, roll), zoom * draws.uniform(0.96, 1.04, frames)


def _orbit(start: Tensor, target: Tensor, angle: Tensor) -> Tensor:
    """`start` (B, 3) turned about the vertical through `target` by angles (B, S), radians."""
    return target[:, None] + ((start - target)[:, None, None] @ turn_y(angle))[..., 0, :]
