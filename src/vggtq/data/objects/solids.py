"""Rays against the solids of a capture: unit boxes, cylinders and balls in frames of their own."""

import torch
from torch import Tensor

from vggtq.data.objects.layout import BOX, BOXES, CYLINDER, CYLINDERS, ELLIPSOID, ELLIPSOIDS, KINDS, ROOM

PARALLEL = 1e-9


def cast(towards: Tensor, origin: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and index of the solid that rays (x, y, 1), each (P,), meet first. towards: (K, 3, 3), origin: (K, 3)."""
    direction = towards @ torch.stack([x, y, torch.ones_like(x)])  # (K, 3, P)
    near, far = intervals(origin[..., None], direction)
    best, index = far[0], torch.zeros_like(x)
    for k in range(1, len(KINDS)):
        hit = (near[k] < far[k]) & (near[k] > 0) & (near[k] < best)
        best, index = torch.where(hit, near[k], best), torch.where(hit, float(k), index)
    return best, index


def depth_of(solid: Tensor, towards: Tensor, origin: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Depth (P,) at which each ray (x, y, 1) meets the one of the solids that `solid` (P,) names."""
    depth = torch.empty_like(x)
    for k, kind in enumerate(KINDS):
        (rays,) = (solid == k).nonzero(as_tuple=True)
        direction = towards[k] @ torch.stack([x[rays], y[rays], torch.ones_like(x[rays])])
        near, far = FORMS[kind](origin[k, :, None], direction)
        depth[rays] = far if k == ROOM else near
    return depth


def intervals(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The values of t, (K, P), at which rays o + t·d enter and leave the solids; entry > exit for a miss. The
    rays, (K, 3, P), are in the frames of all solids.
    """
    o, d = o.transpose(0, 1), d.transpose(0, 1)  # axis first
    parts = [_box(o[:, :1], d[:, :1]), _box(o[:, BOXES], d[:, BOXES])]
    parts += [_cylinder(o[:, CYLINDERS], d[:, CYLINDERS]), _round(o[:, ELLIPSOIDS], d[:, ELLIPSOIDS])]
    near, far = (torch.cat(part) for part in zip(*parts, strict=True))
    return near, far


def _box(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _slab(o, d)
    return (
        torch.maximum(near[0], torch.maximum(near[1], near[2])),
        torch.minimum(far[0], torch.minimum(far[1], far[2])),
    )


def _cylinder(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """A finite upright cylinder is an infinite one cut by a slab."""
    near, far = _round(o[::2], d[::2])
    low, high = _slab(o[1], d[1])
    return torch.maximum(near, low), torch.minimum(far, high)


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    # A ray parallel to a slab would divide by zero, and inf − inf is NaN.
    inverse = 1 / torch.where(d.abs() < PARALLEL, PARALLEL, d)
    middle, reach = o * inverse, inverse.abs()
    return -middle - reach, reach - middle


def _round(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """|o + t·d| = 1 over the first axis: 2 for a cylinder, 3 for a ball. Where a ray misses, exit lies before entry, the more
    the farther it passes.
    """
    a, b, c = dot(d, d), dot(o, d), dot(o, o) - 1
    square = b * b - a * c
    root, inverse = square.sign() * square.abs().sqrt(), 1 / a.clamp(min=1e-20)
    return (-b - root) * inverse, (root - b) * inverse


FORMS = {ROOM: _box, BOX: _box, CYLINDER: _cylinder, ELLIPSOID: _round}


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Over the first axis."""
    products = [p * q for p, q in zip(a, b, strict=True)]
    return sum(products[1:], products[0])
