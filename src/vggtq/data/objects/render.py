"""Frames of captured objects with their exact geometry: ray casting, soft shadows, contact shading, several rays per pixel.

A frame's rays are one long axis, so that everything is elementwise along it, runs on any device, and one compiled function of
RAYS rays serves every picture size. Camera rays have z = 1: the ray parameter of a hit is its depth. Solids are convex images
of a unit box, ball or cylinder, and a ray is moved to where the solid is that. Left out: reflections.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vggtq.data.objects.layout import BOXES, CYLINDERS, ELLIPSOIDS, KINDS, ROOM, TABLE, Layout
from vggtq.data.objects.solids import cast, depth_of, dot, intervals
from vggtq.data.objects.surfaces import (
    CEILING,
    FIRST_OBJECT,
    FIRST_POSTER,
    FLOOR,
    TABLE_SIDE,
    TABLE_TOP,
    WALLS,
    colours,
)
from vggtq.data.procedural import Frames, focal_length, intrinsics_of, relative_to_first, turn_y

RAYS = 84 * 84  # that a compiled function follows at a time: what they need stays in the processor's caches
EAGER_RAYS = 2**15  # otherwise, where every operation costs a few microseconds more
# Where the rays of a pixel on an edge start besides its centre, in pixels: a turned square.
AROUND = ((-0.3, -0.15), (0.15, -0.3), (0.3, 0.15), (-0.15, 0.3))
FRAME_WIDTH = 0.03  # metres, of a picture on the wall
AMBIENT, LAMP = (0.52, 0.54, 0.58), (0.86, 0.82, 0.74)  # cool daylight, a warm lamp
Colours = tuple[Tensor, Tensor, Tensor]


def render(
    layout: Layout,
    size_hw: tuple[int, int],
    antialiased: bool = True,
    exact: bool = True,
    compiled: bool = False,
) -> Frames:
    """Colour from one ray per pixel, and from five where neighbours show different faces; geometry from the ray in the middle.

    Inside of a face nothing needs more rays: patterns fade before they flicker, and shadows are soft. exact: geometry in
    float64; otherwise that of the colour's own float32 rays, good to a micrometre. compiled: through torch.compile; that takes
    a minute once and renders several times as fast.
    """
    focal = focal_length(layout.field_of_view, size_hw)
    tables = _tables(layout)
    images, depths, solids = [], [], []
    for scene in range(len(layout.light)):
        for frame in range(layout.camera.shape[1]):
            view = _view(layout, focal, scene, frame, torch.float32)
            fixed = (view.towards, view.origin, view.world, view.camera, *(table[scene] for table in tables))
            shade = functools.partial(_in_parts, view.focal, fixed, compiled)
            image, depth, solid = _frame(shade, size_hw, view.focal, antialiased)
            if exact:
                view = _view(layout, focal, scene, frame, torch.float64)
                depth = depth_of(solid, view.towards, view.origin, *_rays(size_hw, view.focal))
            images.append(image)
            depths.append(depth)
            solids.append(solid)
    return _frames(layout, focal, size_hw, torch.stack(images), torch.stack(depths), torch.stack(solids))


def _frame(
    shade: Callable[[Tensor, Tensor], Colours], size_hw: tuple[int, int], focal: Tensor, antialiased: bool
) -> Colours:
    """Colours (3, H·W), depths (H·W,) and solids (H·W,) of one frame."""
    x, y = _rays(size_hw, focal)
    colour, depth, face = shade(x, y)
    solid = _solid((face / 8).floor())
    if not antialiased:
        return colour, depth, solid
    edge = _edges(face.view(size_hw)).flatten().nonzero()[:, 0]
    shift = torch.tensor(AROUND, device=x.device, dtype=x.dtype)[:, :, None] / focal  # (4, 2, 1)
    more = shade((x[edge] + shift[:, 0]).flatten(), (y[edge] + shift[:, 1]).flatten())[0]
    colour[:, edge] = (colour[:, edge] + more.unflatten(1, (len(AROUND), -1)).sum(1)) / (1 + len(AROUND))
    return colour, depth, solid


def _solid(face: Tensor) -> Tensor:
    """The solid that a face of `_face` belongs to."""
    other = face - FIRST_OBJECT + 1
    other = torch.where(other >= TABLE, other + 1, other)
    return torch.where(face >= FIRST_OBJECT, other, torch.where(face >= TABLE_TOP, float(TABLE), float(ROOM)))


def _edges(face: Tensor) -> Tensor:
    """Pixels (H, W) with a neighbour above, below, left or right that shows another face."""
    edge = torch.zeros_like(face, dtype=torch.bool)
    right, below = face[:, 1:] != face[:, :-1], face[1:] != face[:-1]
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge[1:] |= below
    edge[:-1] |= below
    return edge


def _frames(
    layout: Layout, focal: Tensor, size_hw: tuple[int, int], images: Tensor, depth: Tensor, solid: Tensor
) -> Frames:
    shape = (*layout.camera.shape[:2], *size_hw)
    extrinsics = relative_to_first(layout.rotation, layout.camera)
    depth = depth.view(shape)
    return Frames(
        images=images.view(*shape[:2], 3, *size_hw),
        depth=depth,
        points=_points(depth, focal, extrinsics.to(depth)),
        extrinsics=extrinsics,
        intrinsics=intrinsics_of(focal, size_hw),
        objects=((solid != ROOM) & (solid != TABLE)).view(shape),
    )


@functools.cache
def _compiled() -> Any:
    return torch.compile(colour_of_rays, dynamic=False)


@dataclass(frozen=True)
class View:
    """One frame. towards: (K, 3, 3), camera directions to the frames of unit shapes; origin: (K, 3), the camera there."""

    towards: Tensor
    origin: Tensor
    world: Tensor  # (3, 3), camera directions to the scene
    camera: Tensor  # (3,), metres
    focal: Tensor  # (), pixels


def _view(layout: Layout, focal: Tensor, scene: int, frame: int, dtype: torch.dtype) -> View:
    to_unit = turn_y(layout.yaw[scene]) / layout.half[scene][..., None]
    world = layout.rotation[scene, frame].mT
    offset = layout.camera[scene, frame] - layout.centre[scene]
    origin = (to_unit @ offset[..., None])[..., 0]
    tensors = (to_unit @ world, origin, world, layout.camera[scene, frame], focal[scene, frame])
    return View(*(t.to(dtype) for t in tensors))


def _rays(size_hw: tuple[int, int], focal: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of directions (x, y, 1) through the pixels' centres, each (H·W,), row by row.

    The principal point is (W/2, H/2) with pixel centres at integers, as VGGT's pose encoding implies.
    """
    height, width = size_hw
    u = torch.arange(width, device=focal.device, dtype=focal.dtype) - width / 2
    v = torch.arange(height, device=focal.device, dtype=focal.dtype) - height / 2
    x, y = (u / focal).expand(height, width), (v / focal)[:, None].expand(height, width)
    return x.reshape(-1), y.reshape(-1)


def _points(depth: Tensor, focal: Tensor, extrinsics: Tensor) -> Tensor:
    """World points (B, S, H, W, 3) of depth (B, S, H, W)."""
    height, width = depth.shape[-2:]
    x = torch.arange(width, device=depth.device, dtype=depth.dtype) - width / 2
    y = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] - height / 2
    scale = depth / focal.to(depth)[..., None, None]
    camera = torch.stack([x * scale, y * scale, depth], -1).flatten(2, 3)
    world = (camera - extrinsics[:, :, None, :, 3]) @ extrinsics[..., :3]
    return world.unflatten(2, (height, width))


def _in_parts(focal: Tensor, fixed: tuple[Tensor, ...], compiled: bool, x: Tensor, y: Tensor) -> Colours:
    """`colour_of_rays` of any number of rays. A compiled function knows one number; the last part is filled up."""
    count, step = len(x), RAYS if compiled else EAGER_RAYS
    if compiled and count % step:
        x, y = (torch.nn.functional.pad(t, (0, -count % step)) for t in (x, y))
    function = _compiled() if compiled else colour_of_rays
    parts = [function(px, py, focal, *fixed) for px, py in zip(x.split(step), y.split(step), strict=True)]
    colour, depth, face = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    return colour[:, :count], depth[:count], face[:count]


def _tables(layout: Layout) -> tuple[Tensor, ...]:
    """Per scene, float32: solids (K, 3, 4) from the scene to unit shapes, their half sizes and turns (5, K), faces (WIDTH, F),
    posters (4, 4), the lamp (3,).
    """
    unit = turn_y(layout.yaw) / layout.half[..., None]
    shift = -(unit @ layout.centre[..., None])
    kinds = torch.cat([layout.half, layout.yaw.cos()[..., None], layout.yaw.sin()[..., None]], -1)
    tables = (
        torch.cat([unit, shift], -1),
        kinds.mT,
        layout.surfaces.table().mT,
        layout.poster,
        layout.light,
    )
    return tuple(table.float().contiguous() for table in tables)


def colour_of_rays(
    x: Tensor,
    y: Tensor,
    focal: Tensor,
    towards: Tensor,
    origin: Tensor,
    world: Tensor,
    camera: Tensor,
    solids: Tensor,
    kinds: Tensor,
    faces: Tensor,
    poster: Tensor,
    lamp: Tensor,
) -> Colours:
    """Colours (3, P), depths (P,) and numbers (P,) of the flat parts that rays (x, y, 1), each (P,), of one frame meet.

    The last five arguments are those of `_tables`.
    """
    depth, index = cast(towards, origin, x, y)
    point = camera[:, None] + depth * (world @ torch.stack([x, y, torch.ones_like(x)]))
    unit = solids[:, :, :3] @ point + solids[:, :, 3:]  # (K, 3, P), the points seen from every solid
    own = unit[0]
    for k in range(1, len(KINDS)):
        own = torch.where(index == k, unit[k], own)
    half_x, half_y, half_z, cosine, sine = _look_up(kinds, index)
    half = torch.stack([half_x, half_y, half_z])
    normal, axis = _normal(index, own, half)
    local = own * half
    face, rim = _face(index, own, axis, local, poster)
    albedo = colours(_look_up(faces, face), local[0], local[1], local[2], depth / (0.7 * focal))
    albedo = torch.where(rim > 0, 0.12, albedo.clamp(0.02, 0.98))
    # From the solid's axes to the scene's.
    turned = [cosine * normal[0] - sine * normal[2], normal[1], sine * normal[0] + cosine * normal[2]]
    sky, lit = _light(index, point, torch.stack(turned), unit, local, half, solids, kinds[:3], lamp)
    rgb = [(albedo[i] * (AMBIENT[i] * sky + LAMP[i] * lit)).clamp(0, 1) for i in range(3)]
    return torch.stack(rgb), depth, 8 * face + 2 * axis + rim


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """The columns (W, P) of a table (W, N): a product with rows of one 1 is exact, and faster than gathering."""
    rows = torch.arange(table.shape[1], device=index.device, dtype=torch.float32)
    return table @ (rows[:, None] == index).float()


def _normal(index: Tensor, unit: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (3, P) in the solid's axes, towards the camera's side, and the axis of a flat face, 0 to 2."""
    ax, ay, az = unit.abs()
    is_cylinder = (index >= CYLINDERS.start) & (index < CYLINDERS.stop)
    upright = is_cylinder & (ay * ay < ax * ax + az * az)
    axis = torch.where(ax >= torch.maximum(ay, az), 0.0, torch.where(ay >= az, 1.0, 2.0))
    axis = torch.where(is_cylinder, torch.where(upright, 0.0, 1.0), axis)
    axis = torch.where(index >= ELLIPSOIDS.start, 0.0, axis)
    inward = torch.where(index == 0, -1.0, 1.0) * unit.sign()
    flat = [torch.where(axis == i, inward[i], 0.0) for i in range(3)]
    curved = [unit[0] / half[0], torch.where(upright, 0.0, unit[1] / half[1]), unit[2] / half[2]]
    length = torch.rsqrt(curved[0] ** 2 + curved[1] ** 2 + curved[2] ** 2 + 1e-20)
    is_round = upright | (index >= ELLIPSOIDS.start)
    return torch.stack(
        [torch.where(is_round, c * length, f) for c, f in zip(curved, flat, strict=True)]
    ), axis


def _face(index: Tensor, unit: Tensor, axis: Tensor, local: Tensor, poster: Tensor) -> tuple[Tensor, Tensor]:
    """The column of each point in the table of faces, and 1 where it lies on a picture's frame; both float."""
    wall = torch.where(axis == 0, torch.where(unit[0] > 0, 1.0, 0.0), torch.where(unit[2] > 0, 3.0, 2.0))
    along = torch.where(axis == 0, local[2], local[0])
    edge = torch.full_like(along, -1.0)
    for i in range(WALLS):
        inside = torch.minimum(
            poster[i, 2] - (along - poster[i, 0]).abs(), poster[i, 3] - (local[1] - poster[i, 1]).abs()
        )
        edge = torch.where(wall == i, inside, edge)
    hung = (edge > 0) & (axis != 1) & (index == 0)
    flat = torch.where(unit[1] > 0, float(FLOOR), float(CEILING))
    room = torch.where(axis == 1, flat, torch.where(hung, FIRST_POSTER + wall, wall))
    table = torch.where(axis == 1, float(TABLE_TOP), float(TABLE_SIDE))
    other = torch.where(index > TABLE, index - 2, index - 1) + FIRST_OBJECT
    face = torch.where(index == 0, room, torch.where(index == TABLE, table, other))
    return face, (hung & (edge < FRAME_WIDTH)).float()


def _light(
    index: Tensor,
    point: Tensor,
    normal: Tensor,
    unit: Tensor,
    local: Tensor,
    half: Tensor,
    solids: Tensor,
    halves: Tensor,
    lamp: Tensor,
) -> tuple[Tensor, Tensor]:
    """Brightness (P,) of sky, darkened where solids are near, and of a lamp with soft shadows."""
    away = lamp[:, None] - point
    square = dot(away, away)
    lit = (0.35 + 0.65 * dot(normal, away) * torch.rsqrt(square)).clamp(min=0) / (1 + 0.05 * square)
    lamps = solids[:, :, :3] @ lamp[:, None] + solids[:, :, 3:]
    near, far = intervals(unit, lamps - unit)
    # How long a ray to the lamp stays inside of a solid; the farther away it does, the softer the shadow's edge.
    near = near.clamp(min=0)
    blocked = ((far.clamp(max=1) - near) / (0.015 + 0.22 * near)).clamp(0, 1)
    open_sky = 1 - 0.5 * torch.exp(-14 * _gaps(unit, halves))
    sky = torch.ones_like(lit)
    for k in range(1, len(KINDS)):
        other = index != k
        lit, sky = (
            torch.where(other, lit * (1 - blocked[k]), lit),
            torch.where(other, sky * open_sky[k - 1], sky),
        )
    # To the room's sides; the smallest is the wall itself, the next one tells of corners.
    sides = half - local.abs()
    low, high = torch.minimum(sides[0], sides[1]), torch.maximum(sides[0], sides[1])
    corner = torch.maximum(low, torch.minimum(high, sides[2])).clamp(min=0)
    sky = torch.where(index == 0, sky * (1 - 0.35 * torch.exp(-4 * corner)), sky)
    return sky * (0.85 - 0.15 * normal[1]), lit  # more light comes from above


def _gaps(unit: Tensor, halves: Tensor) -> Tensor:
    """Roughly how far points (K, 3, P) are from the solids other than the room, metres (K − 1, P). halves: (3, K)."""
    x, y, z = unit.transpose(0, 1)
    above = (y.abs() - 1).clamp(min=0) * halves[1, :, None]
    box_x, box_z = ((v[BOXES].abs() - 1).clamp(min=0) * halves[i, BOXES, None] for v, i in ((x, 0), (z, 2)))
    boxes = box_x * box_x + box_z * box_z + above[BOXES] ** 2
    around = (torch.sqrt(x[CYLINDERS] ** 2 + z[CYLINDERS] ** 2) - 1).clamp(min=0) * halves[0, CYLINDERS, None]
    cylinders = around * around + above[CYLINDERS] ** 2
    length = torch.sqrt(x[ELLIPSOIDS] ** 2 + y[ELLIPSOIDS] ** 2 + z[ELLIPSOIDS] ** 2)
    ball = ((length - 1).clamp(min=0) * halves[0, ELLIPSOIDS, None]) ** 2
    return torch.cat([boxes, cylinders, ball]).sqrt()
