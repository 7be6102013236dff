"""Random captures of objects on a table: solids, surfaces, light and cameras, all from one integer per scene.

Axes are OpenCV's with gravity along +y. The origin lies under the middle of the table, at the height of the
room's centre. Scenes differ in the objects and their places, in every colour and pattern, in the place of the
table in its room and in the start of an arc. No cue is the same in all scenes, so one image alone shows the
elevation of a camera but never its azimuth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vggtq.data.objects.surfaces import Surface, random_surfaces
from vggtq.data.procedural import Draws, look_at

ROOM, BOX, CYLINDER, ELLIPSOID = 0, 1, 2, 3
# Solids of a kind stand together, so that all of them are met in one go.
BOXES, CYLINDERS, ELLIPSOIDS = slice(1, 4), slice(4, 8), slice(8, 9)
KINDS = (ROOM, *3 * (BOX,), *4 * (CYLINDER,), ELLIPSOID)
TABLE, STACKED, FOOT = 4, 7, 1  # the second cylinder stands on the foot, a box, where there is one
STANDING = [k for k in range(1, len(KINDS)) if k not in (TABLE, STACKED)]  # on the table itself
PLACES = len(STANDING)  # one in the middle, the others around it
LOOKED_AT = 0.12  # metres above the table at which arcs have their centre
ARC = (math.radians(50), math.radians(150))
BASE_ELEVATION = (math.radians(20), math.radians(42))  # of an arc
ELEVATION = (math.radians(14), math.radians(52))  # of its frames
PATHS = ("orbit", "walk")
MAX_FRAMES = 1000
DRAWS, DRAWS_PER_FRAME = 1024, 12  # uniform numbers per scene, and those that every frame takes more


@dataclass(frozen=True)
class Layout:
    """B scenes, everything in scene axes and metres, float64."""

    centre: Tensor  # (B, K, 3), of the solids
    half: Tensor  # (B, K, 3), their half sizes
    yaw: Tensor  # (B, K), turned about the vertical, radians
    surfaces: Surface  # of all faces, each field (B, F, …)
    poster: Tensor  # (B, 4, 4): on each wall the centre (along the wall, y) and half sizes of a picture
    light: Tensor  # (B, 3)
    camera: Tensor  # (B, S, 3), camera centres
    rotation: Tensor  # (B, S, 3, 3), scene to camera
    field_of_view: Tensor  # (B, S), radians, along the longer side

    def to(self, device: torch.device | str) -> "Layout":
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return Layout(**moved)


def random_layout(seeds: Sequence[int], frames: int, path: str = "orbit") -> Layout:
    """One capture per seed. path: `orbit`, frames in random order, or `walk`, a smooth sequence."""
    draws = Draws(seeds, DRAWS + DRAWS_PER_FRAME * frames)
    room = torch.stack([draws.uniform(2.0, 2.7), draws.uniform(1.2, 1.45), draws.uniform(2.0, 2.7)], -1)
    top = draws.uniform(0.3, 0.5)  # y of the table's top
    centre, half, yaw = _solids(draws, room, top)
    surfaces, poster = random_surfaces(draws, len(KINDS)), _posters(draws, room, centre[:, 0])
    light = centre[:, 0] + room * draws.uniform(-0.5, 0.5, 3)
    light[:, 1] = -0.85 * room[:, 1]
    camera, rotation, field_of_view = _cameras(draws, room, centre[:, 0], top, frames, path)
    return Layout(centre, half, yaw, surfaces, poster, light, camera, rotation, field_of_view)


def _solids(draws: Draws, room: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, half sizes and yaws. Parts that a scene does not use lie far outside of the room, where no ray
    meets them.
    """
    count = len(KINDS)
    size = draws.uniform(0, 1, count, 3)
    half = torch.stack(
        [0.08 + 0.08 * size[..., 0], 0.08 + 0.15 * size[..., 1], 0.08 + 0.08 * size[..., 2]], -1
    )
    half[:, CYLINDERS, 2] = half[:, CYLINDERS, 0]
    centre = torch.zeros_like(half)
    centre[:, STANDING], half[:, STANDING] = _stand(draws, half[:, STANDING], top)
    _stack(centre, half)
    half[:, 0], half[:, TABLE] = room, draws.uniform(0.55, 0.72)[:, None]
    half[:, TABLE, 1] = (room[:, 1] - top) / 2
    centre[:, TABLE, 1] = top + half[:, TABLE, 1]
    for axis in (0, 2):
        centre[:, 0, axis] = draws.uniform(-0.4, 0.4)
    yaw = draws.uniform(-math.pi, math.pi, count)
    missing = draws.uniform(0, 1, count) < 0.2
    # A tower without its foot would hang in the air.
    missing[:, STACKED] |= missing[:, FOOT] | (draws.uniform(0, 1) < 0.4)
    yaw[:, [0, TABLE]], missing[:, [0, TABLE]] = 0, False
    centre[missing] = 1e3
    return centre, half, yaw


def _stand(draws: Draws, half: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the objects on the table, and half sizes (B, PLACES, 3) with which their outlines do not cross."""
    place = draws.uniform(0, 1, PLACES).argsort(-1)  # kinds stand in another order in every scene
    angle = 2 * math.pi * (place + draws.uniform(-0.2, 0.2, PLACES)) / (PLACES - 1)
    angle = angle + draws.uniform(0, 2 * math.pi, 1)
    radius = torch.where(place == 0, draws.uniform(0.0, 0.07, PLACES), draws.uniform(0.32, 0.45, PLACES))
    flat = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    reach = half[..., [0, 2]].norm(dim=-1)
    distance = (flat[:, :, None] - flat[:, None]).norm(dim=-1) + 9 * torch.eye(PLACES, dtype=flat.dtype)
    fitting = (distance / (reach[:, :, None] + reach[:, None])).amin(-1).clamp(max=1)
    half = half * torch.stack([fitting, torch.ones_like(fitting), fitting], -1)
    return torch.stack([flat[..., 0], top[:, None] - half[..., 1], flat[..., 1]], -1), half


def _stack(centre: Tensor, half: Tensor) -> None:
    """Puts the small cylinder on its foot."""
    half[:, STACKED] *= 0.55
    widest = 0.9 * half[:, FOOT, [0, 2]].amin(-1, keepdim=True)
    half[:, STACKED, [0, 2]] = torch.minimum(half[:, STACKED, :1], widest)
    centre[:, STACKED] = centre[:, FOOT]
    centre[:, STACKED, 1] -= half[:, FOOT, 1] + half[:, STACKED, 1]


def _posters(draws: Draws, room: Tensor, centre: Tensor) -> Tensor:
    """A picture on each wall, (B, 4, 4), in coordinates that start in the middle of the wall."""
    width = torch.stack([room[:, 2], room[:, 2], room[:, 0], room[:, 0]], -1)
    half = torch.stack([draws.uniform(0.3, 0.8, 4), draws.uniform(0.25, 0.5, 4)], -1)
    along = draws.uniform(-0.7, 0.7, 4) * (width - half[..., 0])
    height = draws.uniform(-0.45, 0.15, 4)
    half = half * (draws.uniform(0, 1, 4) < 0.8)[..., None]
    return torch.cat([along[..., None], height[..., None], half], -1)


@dataclass(frozen=True)
class _Path:
    """Positions and directions of S cameras in B scenes, each (B, S) or (B, S, 3); angles in radians."""

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor  # metres from the middle of the table
    gaze: Tensor  # metres from the scene's target
    roll: Tensor
    zoom: Tensor  # over the scene's field of view


def _cameras(
    draws: Draws, room: Tensor, middle: Tensor, top: Tensor, frames: int, path: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, rotations and fields of view. middle: (B, 3), of the room."""
    start, base = draws.uniform(-math.pi, math.pi), draws.uniform(*BASE_ELEVATION)
    distance, zoom = draws.uniform(1.2, 1.55), draws.uniform(math.radians(52), math.radians(64))
    target = torch.stack(
        [draws.uniform(-0.1, 0.1), top - draws.uniform(0.05, 0.2), draws.uniform(-0.1, 0.1)], -1
    )
    way = {"orbit": _orbit, "walk": _walk}[path](draws, frames)
    azimuth = start[:, None] + way.azimuth
    elevation = (base[:, None] + way.elevation).clamp(*ELEVATION)
    direction = [azimuth.cos() * elevation.cos(), -elevation.sin(), azimuth.sin() * elevation.cos()]
    centre = torch.stack(direction, -1) * (distance[:, None] * way.distance)[..., None]
    centre[..., 1] += top[:, None] - LOOKED_AT
    limit = (room - 0.15)[:, None]
    centre = torch.minimum(torch.maximum(centre, middle[:, None] - limit), middle[:, None] + limit)
    return centre, look_at(centre, target[:, None] + way.gaze, way.roll), zoom[:, None] * way.zoom


def _orbit(draws: Draws, frames: int) -> _Path:
    """An arc of 50 to 150°, on which frames stand evenly, a little displaced, and in random order."""
    arc, order = draws.uniform(*ARC), draws.uniform(0, 1, frames).argsort(-1)
    place = (order + draws.uniform(-0.3, 0.3, frames)) / max(frames - 1, 1) - 0.5
    return _Path(
        azimuth=arc[:, None] * place,
        elevation=math.radians(10) * draws.uniform(-1, 1, frames),
        distance=draws.uniform(0.88, 1.12, frames),
        gaze=draws.uniform(-0.06, 0.06, frames, 3),
        roll=math.radians(5) * draws.uniform(-1, 1, frames),
        zoom=draws.uniform(0.98, 1.02, frames),
    )


def _walk(draws: Draws, frames: int) -> _Path:
    """Around the table at 0.8 to 2° a frame, in order, every motion smooth; a shorter walk is the beginning of a longer one."""
    side = torch.where(draws.uniform(0, 1) < 0.5, -1.0, 1.0)
    turn = side * math.radians(1) * draws.uniform(0.8, 2.0)
    steps = torch.arange(frames, dtype=torch.float64)

    def wave(*shape: int) -> Tensor:
        """(B, S, *shape) between −1 and 1: three sines with periods of 40 to 200 frames."""
        period, shift = draws.uniform(40, 200, *shape, 3), draws.uniform(0, 2 * math.pi, *shape, 3)
        angle = 2 * math.pi * steps.view(-1, *(1 for _ in (*shape, 3))) / period[:, None] + shift[:, None]
        return angle.sin().mean(-1)

    return _Path(
        azimuth=turn[:, None] * steps + math.radians(10) * wave(),
        elevation=math.radians(12) * wave(),
        distance=1 + 0.12 * wave(),
        gaze=0.06 * wave(3),
        roll=math.radians(5) * wave(),
        zoom=1 + 0.02 * wave(),
    )
