"""The preview sheet: input, depth and confidence of up to twelve images."""

import logging
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggtq.files.atomic import replacing
from vggtq.machine.fonts import drawable, find_cjk_font
from vggtq.predict.files.maps import CONFIDENCE_COLOURS, DEPTH_COLOURS, colour_range
from vggtq.predict.result import Prediction
from vggtq.terminal.logs import quiet

log = logging.getLogger(__name__)

MOST_FRAMES = 12
CELL, MARGIN, LABEL, HEAD, FOOT = 2.8, 0.12, 0.3, 0.4, 0.8  # inches
DPI = 110
NAME_COLUMNS = 34  # of letters; a Chinese character takes two
FONT = "DejaVu Sans Mono"  # comes with matplotlib


def write_sheet(path: Path, prediction: Prediction, caption: str) -> None:
    """One PNG. Depth and confidence have one colour scale each for all frames; padding stays white."""
    from matplotlib.figure import Figure

    total = len(prediction.inputs.names)
    shown = min(MOST_FRAMES, total)
    frames = (np.arange(shown) * total // shown).tolist()
    height, width = prediction.inputs.size_hw
    grid = Grid(shown, CELL * height / width)
    figure = Figure(figsize=grid.size, facecolor="white")
    excerpt = f"{shown} of {total} images" if shown < total else ""
    text = "   ".join(filter(None, (caption, excerpt)))
    figure.text(MARGIN / grid.size[0], 1 - 0.25 / grid.size[1], text, fontsize=10, parse_math=False)
    # for each text in a font of one weight only, matplotlib would say that it takes that one
    with replacing(path) as temporary, quiet("matplotlib.font_manager"):
        _draw(figure, grid, frames, prediction)
        figure.savefig(temporary, dpi=DPI, format="png")


@dataclass(frozen=True)
class Grid:
    """The layout in inches: rows of input, depth and confidence, in two columns of rows when there are many."""

    frames: int
    cell_height: float

    @property
    def columns(self) -> int:
        return 2 if self.frames > MOST_FRAMES // 3 else 1

    @property
    def rows(self) -> int:
        return -(-self.frames // self.columns)

    @property
    def size(self) -> tuple[float, float]:
        width = 3 * self.columns * (CELL + MARGIN) + MARGIN
        return width, HEAD + self.rows * (self.cell_height + LABEL) + FOOT

    def cell(self, index: int, kind: int) -> tuple[float, float, float, float]:
        """kind: 0 input, 1 depth, 2 confidence. Left, bottom, width and height as shares of the figure."""
        row, column = index % self.rows, 3 * (index // self.rows) + kind
        bottom = FOOT + (self.rows - 1 - row) * (self.cell_height + LABEL)
        return self._shares(column, bottom, self.cell_height)

    def bar(self, kind: int) -> tuple[float, float, float, float]:
        return self._shares(kind, FOOT - 0.3, 0.12)

    def _shares(self, column: int, bottom: float, height: float) -> tuple[float, float, float, float]:
        width, total = self.size
        return (MARGIN + column * (CELL + MARGIN)) / width, bottom / total, CELL / width, height / total


def _draw(figure: Any, grid: Grid, frames: list[int], prediction: Prediction) -> None:
    limits = colour_range(prediction.depth), colour_range(prediction.confidence)
    labels, families = _labels(prediction.inputs.names), _families()
    for index, frame in enumerate(frames):
        cells = [figure.add_axes(grid.cell(index, kind)) for kind in range(3)]
        shown = _draw_row(cells, prediction, frame, limits)
        cells[0].set_title(labels[frame], fontsize=8, loc="left", parse_math=False, fontfamily=families)
        for cell, title in zip(cells[1:], ("depth", "confidence"), strict=True):
            cell.set_title(title, fontsize=8)
    for kind, label in ((1, "depth, the model's unit"), (2, "confidence")):
        bar = figure.add_axes(grid.bar(kind))
        figure.colorbar(shown[kind - 1], cax=bar, orientation="horizontal", label=label)


def _draw_row(cells: Any, prediction: Prediction, frame: int, limits: Any) -> list[Any]:
    image = prediction.inputs.images[frame].permute(1, 2, 0).clamp(0, 1).numpy()
    cells[0].imshow(image)
    maps = (prediction.depth[frame], prediction.confidence[frame])
    shown = [
        cell.imshow(values, cmap=colours, vmin=low, vmax=high)
        for cell, values, colours, (low, high) in zip(
            cells[1:], maps, (DEPTH_COLOURS, CONFIDENCE_COLOURS), limits, strict=True
        )
    ]
    for cell in cells:
        cell.set_xticks([])
        cell.set_yticks([])
    return shown


def _families() -> list[str]:
    return [FONT, *filter(None, [find_cjk_font()])]


def _labels(names: tuple[str, ...]) -> list[str]:
    """`3  hall.jpg`: the number in cameras.json and the name, or only the number where no font can show the name."""
    characters = drawable(_families())
    short = [shorten(unicodedata.normalize("NFC", name)) for name in names]
    fine = [all(ord(c) in characters for c in name) for name in short]
    if not all(fine):
        log.info(
            "preview.png numbers the images whose names no installed font can show; "
            "one that can: fonts-noto-cjk"
        )
    return [
        f"{i + 1}  {name}" if ok else f"{i + 1}" for i, (name, ok) in enumerate(zip(short, fine, strict=True))
    ]


def shorten(name: str, columns: int = NAME_COLUMNS) -> str:
    """The end of a name that is too wide, after an ellipsis: this part distinguishes frames.

    >>> shorten("a/very/deep/folder/0001.jpg", 12), shorten("short.jpg")
    ('…er/0001.jpg', 'short.jpg')
    """
    widths = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in name]
    if sum(widths) <= columns:
        return name
    start, room = len(name), columns - 1
    while start and widths[start - 1] <= room:
        start -= 1
        room -= widths[start]
    return "…" + name[start:]
