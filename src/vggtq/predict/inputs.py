"""The images that `images=` names, and the names of the files made from them."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggtq.data.frames import ALL_IN_MEMORY, Frames
from vggtq.data.images import SUFFIXES, find_images
from vggtq.data.preprocess import FrameTransform, prepare
from vggtq.data.scene import ImageFile
from vggtq.data.select import count, natural_key
from vggtq.errors import DataError

LONGEST_STEM = 150  # bytes; with a suffix it stays below the 255 that file systems allow


@dataclass(frozen=True)
class Inputs:
    """S images as the network takes them. `names` are relative to `root`, `stems` name the files made from them."""

    root: Path
    names: tuple[str, ...]
    stems: tuple[str, ...]
    files: tuple[ImageFile, ...]
    images: Tensor | Frames  # (S, 3, H, W) float32 RGB in [0, 1]
    transforms: tuple[FrameTransform, ...]
    notes: tuple[str, ...]
    mode: str = "crop"  # how they were prepared

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.images.shape[-2], self.images.shape[-1])

    def only(self, frames: Sequence[int]) -> "Inputs":
        """Some of the images, in that order."""
        chosen = list(frames)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            stems=tuple(self.stems[i] for i in chosen),
            files=tuple(self.files[i] for i in chosen),
            images=self.images[chosen],
            transforms=tuple(self.transforms[i] for i in chosen),
        )

    def in_memory(self) -> "Inputs":
        """With all images in memory."""
        return self if isinstance(self.images, Tensor) else replace(self, images=self.images[:])

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of one image as the network sees it."""
        image = self.images[frame].permute(1, 2, 0).numpy()
        return np.asarray((image * 255).round().clip(0, 255).astype(np.uint8))


def read_inputs(
    patterns: Sequence[str],
    out: Path,
    mode: str,
    image_size: int,
    patch_size: int = 14,
    on_disk: bool = False,
) -> Inputs:
    """Finds and prepares the images. Files in `out` are never used as input. Raises DataError.

    on_disk: images wait in a temporary file, and are made into network input when they are asked for.
    """
    notes: list[str] = []
    paths = find_inputs(patterns, out, notes)
    memory_bytes = 0 if on_disk else ALL_IN_MEMORY
    frames, transforms, files, more = prepare(paths, mode, image_size, patch_size, memory_bytes=memory_bytes)
    root = Path(os.path.commonpath([path.parent.resolve() for path in paths]))
    names = tuple((path.parent.resolve() / path.name).relative_to(root).as_posix() for path in paths)
    notes += more
    images = frames if on_disk else frames[:]
    return Inputs(root, names, stems(names), tuple(files), images, tuple(transforms), tuple(notes), mode)


def find_inputs(patterns: Sequence[str], out: Path, notes: list[str]) -> list[Path]:
    """Images of folders, files and patterns such as photos/*.jpg: each once, in the order given.

    A folder is searched as `dataset=images` does (`vggtq.data.images`); within a folder or a pattern the order is
    natural.
    """
    paths: dict[Path, Path] = {}
    for pattern in patterns:
        for path in _expand(pattern, notes):
            key = path.parent.resolve() / path.name
            if not key.is_relative_to(out.resolve()):
                paths.setdefault(key, path)
    if not paths:
        raise DataError(
            f"images={' '.join(patterns)}: nothing but what lies in out={out}; name the folder of your photographs"
        )
    return list(paths.values())


def _expand(pattern: str, notes: list[str]) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return find_images(path, notes)
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise DataError(f"images={pattern}: no such folder or file; check the path")
    matches = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  # absolute patterns
    images = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
    if not matches:
        raise DataError(f"images={pattern}: nothing matches this pattern; check it")
    if not images:
        raise DataError(
            f"images={pattern}: none of {count(len(matches), 'matching file')} is a {', '.join(SUFFIXES)}; check the pattern"
        )
    return sorted(images, key=lambda image: natural_key(image.as_posix()))


def stems(names: Sequence[str]) -> tuple[str, ...]:
    """A file name without suffix for each image: its own where no two are alike, else with its number before it.

    >>> stems(["a/1.jpg", "a/2.jpg"]), stems(["a/1.jpg", "b/1.jpg"])
    (('1', '2'), ('0000-1', '0001-1'))
    """
    short = [Path(name).stem.encode()[:LONGEST_STEM].decode(errors="ignore") for name in names]
    # without letter case: some file systems take A.npy and a.npy for one file
    if max(Counter(stem.casefold() for stem in short).values()) == 1:
        return tuple(short)
    return tuple(f"{number:04d}-{stem}" for number, stem in enumerate(short))


def covered(transform: FrameTransform) -> NDArray[np.bool_]:
    """(H, W): True where the frame shows the image, False where it was padded."""
    everywhere = np.broadcast_to(np.float32(1), (transform.source_height, transform.source_width))
    return ~np.isnan(transform.depth(everywhere))
