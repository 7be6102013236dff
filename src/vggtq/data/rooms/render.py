"""Frames of random rooms with their exact geometry: ray casting, textures, soft light, supersampling."""

import torch
from torch import Tensor

from vggtq.data.procedural import Frames, focal_length, intrinsics_of, relative_to_first
from vggtq.data.rooms.layout import FACES, Layout
from vggtq.data.rooms.raycast import CYLINDER, ROOM, SPHERE, Solids, cast, pixel_rays
from vggtq.data.rooms.textures import colours

RAYS = 2**16  # that are followed at a time: what they need stays in the processor's caches


def render(layout: Layout, size_hw: tuple[int, int], samples: int = 2, exact: bool = True) -> Frames:
    """Colour from samples² rays per pixel, geometry from the ray through its centre.

    exact: geometry in float64; otherwise in float32, which is twice as fast and good to a micrometre.
    """
    dtype = torch.float64 if exact else torch.float32
    focal = focal_length(layout.field_of_view, size_hw)
    rotation, centre = layout.rotation.to(dtype), layout.centre.to(dtype)
    solids = _cast_to(layout.solids, dtype)
    rays = pixel_rays(size_hw, focal.to(dtype), samples=1)
    hits = [cast(solids, centre, rotation, part) for part in _parts(rays)]
    depth, solid = (torch.cat([getattr(hit, name) for hit in hits], -1) for name in ("depth", "solid"))
    extrinsics = relative_to_first(layout.rotation, layout.centre)
    camera = rays * depth[..., None, :]
    points = extrinsics[..., :3].mT.to(dtype) @ (camera - extrinsics[..., 3:].to(dtype))
    return Frames(
        images=_colour(layout, focal, size_hw, samples),
        depth=depth.unflatten(-1, size_hw),
        points=points.mT.unflatten(-2, size_hw),
        extrinsics=extrinsics,
        intrinsics=intrinsics_of(focal, size_hw),
        objects=(solid != 0).unflatten(-1, size_hw),
    )


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
