"""Frames of random rooms with their exact geometry: ray casting, textures, soft light, supersampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.data.raycast import CYLINDER, ROOM, SPHERE, Solids, cast, pixel_rays
from vggtq.data.room_layout import FACES, Layout
from vggtq.data.room_textures import colours

RAYS = 2**16  # that are followed at a time: what they need stays in the processor's caches


@dataclass(frozen=True)
class Frames:
    """B scenes of S frames. The first camera of each scene is its world frame; geometry is float64."""

    images: Tensor  # (B, S, 3, H, W) float32 in [0, 1]
    depth: Tensor  # (B, S, H, W), metres along the optical axis, at the pixel's centre
    points: Tensor  # (B, S, H, W, 3), metres, world
    extrinsics: Tensor  # (B, S, 3, 4), world to camera
    intrinsics: Tensor  # (B, S, 3, 3), pixels


def render(layout: Layout, size_hw: tuple[int, int], samples: int = 2, exact: bool = True) -> Frames:
    """Colour from samples² rays per pixel, geometry from the ray through its centre.

    exact: geometry in float64; otherwise in float32, which is twice as fast and good to a micrometre.
    """
    dtype = torch.float64 if exact else torch.float32
    height, width = size_hw
    focal = max(size_hw) / 2 / torch.tan(layout.field_of_view / 2)
    rotation, centre = layout.rotation.to(dtype), layout.centre.to(dtype)
    solids = _cast_to(layout.solids, dtype)
    rays = pixel_rays(size_hw, focal.to(dtype), samples=1)
    depth = torch.cat([cast(solids, centre, rotation, part).depth for part in _parts(rays)], -1)
    extrinsics = _relative_to_first(layout.rotation, layout.centre)
    camera = rays * depth[..., None, :]
    points = extrinsics[..., :3].mT.to(dtype) @ (camera - extrinsics[..., 3:].to(dtype))
    return Frames(
        images=_colour(layout, focal, size_hw, samples),
        depth=depth.unflatten(-1, size_hw),
        points=points.mT.unflatten(-2, size_hw),
        extrinsics=extrinsics,
        intrinsics=_intrinsics(focal, width, height),
    )


def _relative_to_first(rotation: Tensor, centre: Tensor) -> Tensor:
    """World to camera (B, S, 3, 4) with the first camera as the world."""
    relative = rotation @ rotation[:, :1].mT
    translation = rotation @ (centre[:, :1] - centre)[..., None]
    first = torch.eye(3, 4, dtype=rotation.dtype, device=rotation.device).expand(len(rotation), 1, 3, 4)
    return torch.cat([first, torch.cat([relative, translation], -1)[:, 1:]], 1)


def _intrinsics(focal: Tensor, width: int, height: int) -> Tensor:
    matrix = focal.new_zeros(*focal.shape, 3, 3)
    matrix[..., 0, 0] = matrix[..., 1, 1] = focal
    matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = width / 2, height / 2, 1
    return matrix


def _cast_to(solids: Solids, dtype: torch.dtype) -> Solids:
    return Solids(solids.kinds, solids.rotation.to(dtype), solids.centre.to(dtype), solids.half.to(dtype))


def _parts(rays: Tensor) -> tuple[Tensor, ...]:
    """rays (B, S, 3, P) in parts of at most RAYS."""
    batch, frames = rays.shape[:2]
    return rays.split(max(1, RAYS // (batch * frames)), -1)


def _colour(layout: Layout, focal: Tensor, size_hw: tuple[int, int], samples: int) -> Tensor:
    solids = _cast_to(layout.solids, torch.float32)
    rays = pixel_rays(size_hw, focal.float(), samples)
    colour = torch.cat([_colour_of_rays(layout, solids, part) for part in _parts(rays)], -1)
    return colour.unflatten(-1, (samples**2, *size_hw)).mean(3).permute(1, 2, 0, 3, 4).contiguous()


def _colour_of_rays(layout: Layout, solids: Solids, rays: Tensor) -> Tensor:
    """(3, B, S, P) for rays (B, S, 3, P)."""
    hits = cast(solids, layout.centre.float(), layout.rotation.float(), rays)
    batch, frames = hits.local.shape[:2]
    local = hits.local.transpose(1, 2).flatten(2).transpose(0, 1).flatten(1)  # (3, B·S·P)
    slot = torch.arange(batch, device=local.device)[:, None, None] * len(solids.kinds) + hits.solid
    return _shade(layout, solids, slot.flatten(), local).view(3, batch, frames, -1)


def _shade(layout: Layout, solids: Solids, slot: Tensor, local: Tensor) -> Tensor:
    """Colours (3, N) of surface points `local` (3, N) on the solids `slot` (N,), an index into B·K."""
    light = solids.rotation @ (layout.light[:, None].float() - solids.centre)[..., None]
    kinds = light.new_tensor(solids.kinds).expand(len(light), -1)[..., None]
    table = torch.cat([solids.half, light[..., 0], kinds], -1).flatten(0, 1)
    row = table.index_select(0, slot).T.contiguous()
    half, lamp, kind = row[:3], row[3:6], row[6]
    relative = local / half
    axis = _largest(relative.abs())
    positive = relative.gather(0, axis[None])[0] > 0
    u = torch.where(axis == 0, local[2], local[0])
    v = torch.where(axis == 1, local[2], local[1])
    index = slot * FACES + 2 * axis + positive
    faces = layout.faces.float().flatten(0, 2).index_select(0, index).T.contiguous()
    albedo = colours(faces, torch.stack([u, v]))
    normal = _normal(kind, relative, axis)
    return (albedo * _light(normal, lamp - local, kind, half - local.abs(), axis)).clamp(max=1)


def _largest(values: Tensor) -> Tensor:
    """Index (N,) of the largest of three rows; much faster than argmax over so short an axis."""
    x, y, z = values
    return torch.where(x >= torch.maximum(y, z), 0, torch.where(y >= z, 1, 2))


def _normal(kind: Tensor, relative: Tensor, axis: Tensor) -> Tensor:
    """Unit normals (3, N) in the solid's frame, towards the camera's side."""
    flat = torch.zeros_like(relative).scatter_(0, axis[None], 1.0) * relative.sign()
    flat = torch.where(kind == ROOM, -flat, flat)
    around = relative * relative.new_tensor([[1.0], [0.0], [1.0]])
    cap = relative[1].abs() > (around * around).sum(0)
    side = torch.where(cap, flat, around)
    return torch.where(kind == SPHERE, relative, torch.where(kind == CYLINDER, side, flat))


def _light(normal: Tensor, to_lamp: Tensor, kind: Tensor, margin: Tensor, axis: Tensor) -> Tensor:
    """Brightness (N,): ambient, one soft lamp, and darker corners of the room."""
    distance = to_lamp.square().sum(0)
    facing = (normal * to_lamp).sum(0) * distance.rsqrt()
    lamp = (0.5 + 0.5 * facing).square() / (1 + 0.06 * distance)
    corner = margin.scatter(0, axis[None], 9.0).amin(0).clamp(min=0)
    shade = torch.where(kind == ROOM, 1 - 0.35 * torch.exp(-4 * corner), 1.0)
    return (0.4 + 1.0 * lamp) * shade
