"""The items of every dataset: preprocessed frames of one place, and the known facts about its geometry.

Conventions, everywhere in vggtq: OpenCV axes (x right, y down, z forward); extrinsics map world to camera;
pixel centres lie at integers (COLMAP's +0.5 is removed on reading); depth is z along the optical axis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageFile:
    """One source image, as the record lists it."""

    path: str  # relative to the dataset's root where it has one, never a machine's own path
    sha256: str
    width: int  # pixels, as decoded
    height: int


@dataclass(frozen=True)
class GroundTruth:
    """Known geometry of a scene on the preprocessed image grid. Unknown parts are None.

    extrinsics: (S, 3, 4) float64, world to camera, scene units.
    intrinsics: (S, 3, 3) float64, pixels of the preprocessed frame, pixel centres at integers.
    depth: (S, H, W) float32, scene units, NaN where there is none; frames without any depth are all NaN.
    metric: whether one scene unit is one metre.
    """

    extrinsics: Tensor | None = None
    intrinsics: Tensor | None = None
    depth: Tensor | None = None
    metric: bool = False

    @classmethod
    def of(
        cls,
        extrinsics: Sequence[Array],
        intrinsics: Sequence[Array] | None,
        depth: Array | None,
        metric: bool,
    ) -> "GroundTruth":
        """From arrays: (3, 4) and (3, 3) of each frame, depth (S, H, W)."""
        poses, K = (
            None if m is None else torch.from_numpy(np.stack(m)).double() for m in (extrinsics, intrinsics)
        )
        return cls(poses, K, None if depth is None else torch.from_numpy(depth), metric)


@dataclass(frozen=True)
class CameraCheck:
    """The distance of given cameras from the photographs, as measured by `vggtq.data.cameras.check`."""

    convention: str | None = None  # in which they were read
    median_px: float | None = None  # of the distances between matched points and epipolar lines
    longer_side: int | None = None  # of the images that were matched, pixels
    matches: int = 0
    pairs: int = 0
    skipped: str | None = None  # why they were not checked


@dataclass(frozen=True)
class Scene:
    """S frames of one place. images: (S, 3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size."""

    name: str
    images: Tensor
    files: tuple[ImageFile, ...] = ()
    truth: GroundTruth = field(default_factory=GroundTruth)
    notes: tuple[str, ...] = ()  # decisions of the loader for the record (frames skipped, padded, …)
    cameras: CameraCheck | None = None  # None without cameras, or where they are exact by construction

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.float32:
            raise ValueError(
                f"scene {self.name}: images must be float32 (S, 3, H, W), "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )


class Dataset(Protocol):
    """A dataclass whose fields are the YAML's keys; it validates them in `__post_init__` without reading files."""

    name: str

    def scenes(self) -> Iterator[Scene]:
        """Yields scenes one at a time, so that only one is in memory. Raises DataError."""
        ...

    def inputs(self) -> list[Path]:
        """The files that `scenes` reads, in order; none where the options say it all. Raises DataError."""
        ...
