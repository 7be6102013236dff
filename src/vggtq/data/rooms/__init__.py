"""Procedural rooms with exact geometry: an endless data set that needs no download (dataset=rooms).

`vggtq data rooms preview=out.png` draws a contact sheet. The integer that a scene is made from is unique
to its split, seed and place in the data set, so no two splits share a scene. Rooms are closed, so every pixel has
depth; units are metres.
"""

from dataclasses import dataclass
from typing import ClassVar

from vggtq.data.procedural import Frames, Procedural, scene_seed
from vggtq.data.rooms import layout, render

SAMPLES = 3  # squared: rays per pixel for colour


@dataclass
class Rooms(Procedural):
    """Furnished rooms."""

    name: str = "rooms"

    max_frames: ClassVar[int] = layout.MAX_FRAMES

    def render(self, index: int) -> Frames:
        room = layout.random_layout([scene_seed(self.split, self.seed, index)], self.frames)
        return render.render(room, (self.size[0], self.size[1]), SAMPLES)
