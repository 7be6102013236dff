"""Procedural captures of objects on a table, with exact geometry: an endless data set that needs no download (dataset=objects).

`vggtq data objects preview=out.png` draws a contact sheet. Scenes are made as those of dataset=rooms: from one
integer each, which no two splits share. Every pixel has depth; units are metres.
"""

from dataclasses import dataclass
from typing import ClassVar

from vggtq.data.objects import layout, render
from vggtq.data.procedural import Frames, Procedural, scene_seed
from vggtq.errors import check_choice


@dataclass
class Objects(Procedural):
    """Tables with objects. camera_path: `orbit`, an arc in random order, or `walk`, a smooth sequence of any length."""

    name: str = "objects"
    camera_path: str = "orbit"

    max_frames: ClassVar[int] = layout.MAX_FRAMES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("path", self.camera_path, layout.PATHS)

    def render(self, index: int) -> Frames:
        seeds = [scene_seed(self.split, self.seed, index)]
        capture = layout.random_layout(seeds, self.frames, self.camera_path)
        return render.render(capture, (self.size[0], self.size[1]))
