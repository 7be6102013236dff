"""Short sequences to calibrate on, cut out of image folders and ETH3D scenes at places that a seed chooses.

A sequence is `frames` neighbouring images that the network sees together. Sequences do not overlap; a folder with fewer images
than one sequence needs is one shorter sequence. Images are read when their turn comes, so that a large folder costs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vggtq.data.eth3d import ETH3D, SCENES, scene_names
from vggtq.data.images import ImageFolder
from vggtq.data.preprocess import check_options, preprocess
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError


@dataclass
class ImageSequences:
    """`count` sequences of the images in `path`, fewer where there are not so many.

    without: an ImageFolder whose images are left out.
    """

    name: str = "images"
    path: str = ""
    count: int = 16
    frames: int = 4
    seed: int = 0
    image_size: int = 518
    mode: str = "crop"
    patch_size: int = 14
    without: Any = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("dataset.path is empty: name the folder with your images, dataset.path=DIR")
        check_options(self.mode, self.image_size, self.patch_size)

    def inputs(self) -> list[Path]:
        """The images of all sequences."""
        return [path for window in self._windows() for path in window]

    def scenes(self) -> Iterator[Scene]:
        """Yields sequences in the order of the seed. Raises DataError where no image is left."""
        for window in self._windows():
            images, _, files, notes = preprocess(window, self.mode, self.image_size, self.patch_size)
            yield Scene(_span(window), images, tuple(files), notes=tuple(notes))

    def _windows(self) -> list[list[Path]]:
        everything = ImageFolder(self.name, self.path, self.image_size, self.mode, self.patch_size)
        evaluated: ImageFolder | None = self.without
        paths = everything.split()[0] if evaluated is None else evaluated.split()[1]
        if not paths:
            raise DataError(
                f"calibration=dataset: every image of {self.path} is evaluated, so that none is left to calibrate on; set "
                f"dataset.max_images, or use calibration=images calibration.dataset.path=DIR"
            )
        return list(_windows(paths, self.frames, self.count, self.seed))


@dataclass
class ETH3DSequences:
    """`count` sequences of the scenes below `root` that are downloaded, without `evaluated` and scenes of the same place."""

    name: str = "eth3d"
    root: str = "data/eth3d"
    evaluated: str = "courtyard"
    count: int = 16
    frames: int = 4
    seed: int = 0
    image_size: int = 518
    mode: str = "crop"
    patch_size: int = 14

    def inputs(self) -> list[Path]:
        """The files of all sequences."""
        return [file for folder in self._folders() for file in folder.inputs()]

    def scenes(self) -> Iterator[Scene]:
        """Yields sequences in the order of the seed. Raises DataError where no other scene is there."""
        for folder in self._folders():
            for scene in folder.scenes():
                yield replace(scene, name=f"{scene.name} from image {folder.start}")

    def _folders(self) -> list[ETH3D]:
        """A selection of neighbouring images each."""
        if not self._others():
            raise ConfigError(
                f"calibration=dataset: scene={self.evaluated} evaluates every scene, so that none is left to calibrate on; "
                f"use calibration=rooms, or calibration=images calibration.dataset.path=DIR"
            )
        found = [scene for scene in self._others() if (Path(self.root).expanduser() / scene).is_dir()]
        if not found:
            raise DataError(
                f"calibration=dataset: {self.root} has no scene but {self.evaluated}, which is evaluated; "
                f"run: python -m vggtq.data.eth3d {self._others()[0]}"
            )
        starts = []
        for name in found:
            size: dict[str, Any] = {
                "image_size": self.image_size,
                "mode": self.mode,
                "patch_size": self.patch_size,
            }
            folder = ETH3D(self.name, self.root, name, max_images=self.frames, use_depth=False, **size)
            starts += [(folder, start) for start, *_ in _cut(list(range(folder.available())), self.frames)]
        chosen = (starts[index] for index in _order(len(starts), self.seed)[: self.count])
        return [replace(folder, start=start) for folder, start in chosen]

    def _others(self) -> list[str]:
        # relief and relief_2 are two visits to one place.
        places = {name.split("_")[0] for name in scene_names(self.evaluated)}
        return [scene for scene in SCENES if scene.split("_")[0] not in places]


def _windows(paths: list[Path], frames: int, count: int, seed: int) -> Iterator[list[Path]]:
    windows = _cut(paths, frames)
    for index in _order(len(windows), seed)[:count]:
        yield windows[index]


def _cut(items: list[Any], frames: int) -> list[list[Any]]:
    """Neighbours together; what does not fill the last sequence is left out, unless there is no other."""
    return [items[i : i + frames] for i in range(0, max(1, len(items) - frames + 1), frames)]


def _order(length: int, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng(seed).permutation(length).tolist()
    return order


def _span(paths: list[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} to {paths[-1].name}"
