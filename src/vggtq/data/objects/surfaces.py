"""The look of surfaces of captured objects: two colours in a smooth solid pattern, under a slow tint.

A colour depends on the surface point alone, so all frames agree on it, and it is a smooth function of that point with a known
steepness: patterns finer than a pixel fade out instead of flickering. A pattern is a polynomial of three sines, which covers
stripes, checks, patches, spots and, with its phase bent by the tint's waves, wood and marble.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vggtq.data.procedural import Draws

WALLS = 4
FLOOR, CEILING, FIRST_POSTER, TABLE_TOP, TABLE_SIDE, FIRST_OBJECT = 4, 5, 6, 10, 11, 12
# Weights of sin a, sin a·sin c, sin c·sin b, sin a + sin b + sin c, and 1 in a pattern.
STRIPES, CHECKS, PATCHES, SPOTS = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.5, 0.0, 0.0, 0.0),
    (0.0, 1.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.8, -0.7),
)
PATTERNS = torch.tensor([STRIPES, CHECKS, PATCHES, SPOTS], dtype=torch.float64)
WIDTH = 37  # columns of `Surface.table`


@dataclass(frozen=True)
class Surface:
    """Of F faces in each of B scenes."""

    first: Tensor  # (B, F, 3), colours in [0, 1]
    second: Tensor  # (B, F, 3)
    frequency: Tensor  # (B, F, 3), radians per metre along the face's axes a, b (vertical), c
    turn: Tensor  # (B, F, 2), cosine and sine of the turn of a and c about the vertical
    phase: Tensor  # (B, F, 3)
    weights: Tensor  # (B, F, 5), as in PATTERNS
    contrast: Tensor  # (B, F, 2): how much of the second colour at most, how steep edges are
    warp: Tensor  # (B, F, 1): how far the tint's waves bend the pattern, radians
    wave: Tensor  # (B, F, 9): per colour channel the wave vector of the tint, radians per metre
    shift: Tensor  # (B, F, 3): its phase
    tint: Tensor  # (B, F, 3): its amplitude

    def to(self, device: torch.device | str) -> "Surface":
        return Surface(*(getattr(self, f.name).to(device) for f in fields(self)))

    def table(self) -> Tensor:
        """(B, F, WIDTH) float32, the fields side by side in this order."""
        return torch.cat([getattr(self, f.name) for f in fields(self)], -1).float()


def random_surfaces(draws: Draws, solids: int) -> Surface:
    """Faces in the order of the constants above, then one for each object."""
    count = FIRST_OBJECT + solids - 2
    kind = draws.uniform(0, len(PATTERNS), count).floor().long()
    angle = draws.uniform(0, math.pi, count) * (draws.uniform(0, 1, count) < 0.4)
    first, second = _colours(draws, count)
    coarse, fine = _per_face(count, "wavelength")
    wavelength = coarse + (fine - coarse) * draws.uniform(0, 1, count)
    low, high = _per_face(count, "contrast")
    contrast = (low + (high - low) * draws.uniform(0, 1, count)) * (draws.uniform(0, 1, count) < 0.75)
    slow, fast = _per_face(count, "tint_wavelength")
    direction = torch.nn.functional.normalize(draws.uniform(-1, 1, count, 3, 3), dim=-1)
    wave = direction * (2 * math.pi / (slow + (fast - slow) * draws.uniform(0, 1, count)))[..., None, None]
    return Surface(
        first,
        second,
        frequency=2 * math.pi / wavelength[..., None] * draws.uniform(0.7, 1.4, count, 3),
        turn=torch.stack([angle.cos(), angle.sin()], -1),
        phase=draws.uniform(0, 2 * math.pi, count, 3),
        weights=PATTERNS[kind],
        contrast=torch.stack([contrast, draws.uniform(1.0, 5.0, count)], -1),
        warp=(draws.uniform(0.0, 2.5, count) * (draws.uniform(0, 1, count) < 0.5))[..., None],
        wave=wave.flatten(2),
        shift=draws.uniform(0, 2 * math.pi, count, 3),
        tint=_tint(draws, count),
    )


# Per group of faces: walls, floor and ceiling; posters; the table; objects.
RANGES = {
    "wavelength": ((0.5, 1.4), (0.15, 0.5), (0.15, 0.6), (0.06, 0.2)),  # metres
    "contrast": ((0.1, 0.6), (0.5, 1.0), (0.1, 0.7), (0.4, 1.0)),
    "tint_wavelength": ((2.0, 6.0), (0.4, 1.5), (0.9, 2.2), (0.25, 0.8)),  # metres
    "tint": ((0.02, 0.09), (0.08, 0.3), (0.08, 0.27), (0.0, 0.14)),
}


def _per_face(count: int, name: str) -> tuple[Tensor, Tensor]:
    groups = (FIRST_POSTER, TABLE_TOP - FIRST_POSTER, FIRST_OBJECT - TABLE_TOP, count - FIRST_OBJECT)
    values = torch.tensor(RANGES[name], dtype=torch.float64).repeat_interleave(torch.tensor(groups), 0)
    return values[:, 0], values[:, 1]


def _tint(draws: Draws, count: int) -> Tensor:
    low, high = (bound[:, None] for bound in _per_face(count, "tint"))
    tint = low + (high - low) * draws.uniform(0, 1, count, 3)
    # A quarter of the tables is plain.
    plain = draws.uniform(0, 1) < 0.25
    tint[:, TABLE_TOP] *= torch.where(plain, 0.15, 1.0)[:, None]
    return tint


def _colours(draws: Draws, count: int) -> tuple[Tensor, Tensor]:
    """First and second colours: quiet rooms, tables of any colour, and objects whose hues lie apart."""
    objects = count - FIRST_OBJECT
    hue, value = draws.uniform(0, 1, count), draws.uniform(0.6, 0.85, count)
    saturation = draws.uniform(0.03, 0.22, count)
    value[:, FLOOR], value[:, CEILING] = draws.uniform(0.3, 0.6), draws.uniform(0.75, 0.9)
    value[:, FIRST_POSTER:FIRST_OBJECT] = draws.uniform(0.35, 0.75, FIRST_OBJECT - FIRST_POSTER)
    saturation[:, FIRST_POSTER:TABLE_TOP] = draws.uniform(0.2, 0.7, TABLE_TOP - FIRST_POSTER)
    saturation[:, TABLE_TOP:FIRST_OBJECT] = draws.uniform(0.05, 0.5, FIRST_OBJECT - TABLE_TOP)
    order = draws.uniform(0, 1, objects).argsort(-1)
    hue[:, FIRST_OBJECT:] = (order + draws.uniform(-0.3, 0.3, objects)) / objects + draws.uniform(0, 1, 1)
    value[:, FIRST_OBJECT:] = draws.uniform(0.35, 0.68, objects)
    saturation[:, FIRST_OBJECT:] = draws.uniform(0.45, 0.85, objects)
    first = _rgb(hue, saturation, value)
    # The second colour is lighter, darker or the hue next to the first one.
    choice = draws.uniform(0, 1, count)[..., None]
    beside = _rgb(hue + draws.uniform(0.1, 0.3, count), saturation, draws.uniform(0.4, 0.8, count))
    light = 0.25 * first + 0.72
    dark = 0.35 * first
    return first, torch.where(choice < 0.45, light, torch.where(choice < 0.65, dark, beside))


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (…, 3) from a hue in turns; cosines instead of HSV's corners, so that no hue stands out."""
    thirds = torch.arange(3, dtype=torch.float64) / 3
    wave = (2 * math.pi * (hue[..., None] - thirds)).cos()
    return (value[..., None] + 0.45 * saturation[..., None] * wave).clamp(0.02, 0.98)


def colours(columns: Tensor, x: Tensor, y: Tensor, z: Tensor, footprint: Tensor) -> Tensor:
    """Albedo (3, P) of points on their faces. columns: (WIDTH, P), of each point's face; footprint: metres a pixel."""
    first, second, frequency, turn = columns[0:3], columns[3:6], columns[6:9], columns[9:11]
    phase, weights, amount, steep, warp = (
        columns[11:14],
        columns[14:19],
        columns[19],
        columns[20],
        columns[21],
    )
    wave, shift, tint = columns[22:31].unflatten(0, (3, 3)), columns[31:34], columns[34:37]
    slow = torch.sin(wave[:, 0] * x + wave[:, 1] * y + wave[:, 2] * z + shift)  # (3, P)
    along = torch.stack([turn[0] * x + turn[1] * z, y, turn[0] * z - turn[1] * x])
    a, b, c = torch.sin(frequency * along + phase + warp * slow)
    pattern = weights[0] * a + weights[1] * a * c + weights[2] * c * b + weights[3] * (a + b + c) + weights[4]
    blur = footprint * 0.5 * (frequency[0] + frequency[2])  # radians a pixel
    edge = torch.rsqrt(1 / (steep * steep) + blur * blur)
    # Detail below a pixel fades to the pattern's mean, so that a surface has one colour from near and far.
    fade = (1.4 - 0.25 * blur).clamp(0, 1)
    mix = amount * (0.5 + 0.5 * fade * (pattern * edge).clamp(-1, 1))
    return first + mix * (second - first) + tint * slow
