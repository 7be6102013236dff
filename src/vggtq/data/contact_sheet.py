"""A picture of procedural scenes: `vggtq data objects preview=out.png`, and the same for rooms."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vggtq.data.procedural import SPLITS, Procedural
from vggtq.terminal.help import Command
from vggtq.terminal.options import option


@dataclass
class Options:
    """The scenes to draw, and the file to write."""

    preview: str = option("PNG to write", missing="name a file: preview=out.png")
    scenes: int = option("how many", 8, least=1)
    frames: int = option("of each scene", 4, least=1)
    size: list[int] = option("height and width of a frame, pixels", [168, 168])
    seed: int = option("of the scenes", 0, least=0)
    split: str = option("of the data set", "test", choices=SPLITS)


def contact_sheet(dataset: Procedural, columns: int = 2) -> np.ndarray:
    """(H, W, 3) uint8: per scene a row of colours above a row of depths, near ones bright."""
    tiles = []
    for scene in dataset.scenes():
        assert scene.truth.depth is not None
        colour = scene.images.permute(0, 2, 3, 1).numpy()
        tiles.append(np.concatenate([_row(colour), _row(_depth_colours(scene.truth.depth))]))
    tiles += [np.ones_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return (np.concatenate(rows) * 255).round().astype(np.uint8)


def _row(frames: np.ndarray) -> np.ndarray:
    """(S, H, W, 3) to one row with a white margin below and at the right."""
    padded = np.pad(frames, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), axis=1)


def _depth_colours(depth: Tensor) -> np.ndarray:
    """(S, H, W, 3): inverse depth between the scene's 2nd and 98th percentile."""
    inverse = 1 / depth.double().numpy()
    low, high = np.percentile(inverse, (2, 98))
    return np.asarray(matplotlib.colormaps["magma"](((inverse - low) / (high - low)).clip(0, 1))[..., :3])


def command(kind: type[Procedural]) -> Command[Options]:
    """The command that draws scenes of this kind."""
    examples = (f"preview={kind.name}.png", f"preview={kind.name}.png scenes=4 frames=6 size=112,112 seed=1")
    return Command(f"data {kind.name}", Options, examples)


def draw(kind: type[Procedural], options: Options) -> None:
    """Writes the contact sheet that the command line asks for."""
    dataset = kind(kind.name, options.scenes, options.frames, options.size, options.seed, options.split)
    with torch.no_grad():
        Image.fromarray(contact_sheet(dataset)).save(options.preview)
