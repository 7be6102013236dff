"""Procedural surfaces: patchwork, checker, bricks and stripes under coloured tiles, noise and posters.

Every place of a room must look different from every other, or cameras cannot be told from images. A colour depends
on the surface point alone, so all frames agree on it. Cells draw their colours from an integer hash, which gives the
same picture on every device.
"""

import torch
from torch import Tensor

PATCHWORK, CHECKER, BRICKS, STRIPES = 0, 1, 2, 3
POSTERS = 2
# Columns of a face's parameters: where each one starts, and how wide it is.
COLUMNS = {
    "first": (0, 3),
    "second": (3, 3),
    "pattern": (6, 1),
    "scale": (7, 1),  # metres
    "turn": (8, 2),  # cosine, sine
    "tile_scale": (10, 1),  # metres
    "tile_strength": (11, 1),
    "noise_scale": (12, 1),  # metres
    "noise_strength": (13, 1),
    "seed": (14, 1),
    "poster_centre": (15, 2 * POSTERS),  # metres from the centre of the face
    "poster_half": (15 + 2 * POSTERS, 2 * POSTERS),
    "poster_cells": (15 + 4 * POSTERS, POSTERS),  # per metre
}
WIDTH = 15 + 5 * POSTERS


def colours(faces: Tensor, uv: Tensor) -> Tensor:
    """Albedo (3, N) in [0, 1] of points uv (2, N) on their faces, metres. faces: (WIDTH, N)."""
    get = {name: faces[start : start + width] for name, (start, width) in COLUMNS.items()}
    seed = get["seed"][0].int()
    turned = torch.stack(
        [
            get["turn"][0] * uv[0] - get["turn"][1] * uv[1],
            get["turn"][1] * uv[0] + get["turn"][0] * uv[1],
        ]
    )
    mix = _pattern(turned / get["scale"], get["pattern"][0], seed)
    colour = get["first"] + mix * (get["second"] - get["first"])
    cell = (uv / get["tile_scale"]).floor().int()
    tile = _three(_hash(cell[0], cell[1], seed + 1))
    colour = colour + get["tile_strength"] * (tile - colour)
    noise = _value_noise(uv / get["noise_scale"], seed + 2)
    colour = colour * (1 + get["noise_strength"] * (noise - 0.5))
    for i in range(POSTERS):
        colour = _poster(colour, uv, get, i, seed + 3 + i)
    return colour.clamp(0, 1)


def _pattern(uv: Tensor, pattern: Tensor, seed: Tensor) -> Tensor:
    """The share of the second colour, (N,), that the pattern shows at uv, in cells."""
    cell = uv.floor()
    parity = (cell[0] + cell[1]).remainder(2)
    patch = _unit(_hash(cell[0].int(), cell[1].int(), seed))
    shifted = uv[0] * 0.5 + 0.5 * cell[1].remainder(2)
    mortar = ((uv[1] - cell[1] < 0.15) | (shifted - shifted.floor() < 0.075)).to(uv.dtype)
    brick = 0.4 * _unit(_hash(shifted.floor().int(), cell[1].int(), seed))
    bricks = torch.maximum(mortar, brick)
    stripes = cell[0].remainder(2)
    mix = torch.where(pattern == CHECKER, parity, patch)
    mix = torch.where(pattern == BRICKS, bricks, mix)
    return torch.where(pattern == STRIPES, stripes, mix)


def _poster(colour: Tensor, uv: Tensor, get: dict[str, Tensor], i: int, seed: Tensor) -> Tensor:
    """Covers the colour (3, N) with the i-th poster: coloured cells in a dark frame."""
    offset = uv - get["poster_centre"][2 * i : 2 * i + 2]
    edge = (get["poster_half"][2 * i : 2 * i + 2] - offset.abs()).amin(0)
    cell = (offset * get["poster_cells"][i]).floor().int()
    inside = torch.where(edge > 0.04, _three(_hash(cell[0], cell[1], seed)), 0.08)
    return torch.where(edge > 0, inside, colour)


def _value_noise(uv: Tensor, seed: Tensor) -> Tensor:
    """Smoothly interpolated random values (N,) in [0, 1] on the integer lattice."""
    base = uv.floor()
    weight = uv - base
    weight = weight * weight * (3 - 2 * weight)
    x, y = base.int()
    rows = []
    for dy in (0, 1):
        left, right = _unit(_hash(x, y + dy, seed)), _unit(_hash(x + 1, y + dy, seed))
        rows.append(left + weight[0] * (right - left))
    return rows[0] + weight[1] * (rows[1] - rows[0])


def _hash(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """30 well-mixed bits (int32) of a cell; products wrap around on purpose."""
    h = (x * 73856093) ^ (y * 19349663) ^ (seed * 83492791)
    h = (h ^ ((h >> 15) & 0x1FFFF)) * 739982445
    h = (h ^ ((h >> 12) & 0xFFFFF)) * 695872825
    return (h ^ ((h >> 15) & 0x1FFFF)) & 0x3FFFFFFF


def _unit(h: Tensor) -> Tensor:
    return h.float() * (1 / 0x3FFFFFFF)


def _three(h: Tensor) -> Tensor:
    """Three colour channels (3, N) from the three tens of bits."""
    return torch.stack([h & 1023, (h >> 10) & 1023, (h >> 20) & 1023]).float() * (1 / 1023)
