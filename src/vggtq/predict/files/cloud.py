"""The coloured point cloud: which pixels become points, where these lie, and a binary PLY of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vggtq.files.atomic import replacing
from vggtq.geometry import unproject_depth
from vggtq.predict.per_frame import finite, positive, values
from vggtq.predict.result import Prediction

VERTEX = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")])
KINDS = {"<f4": "float", "|u1": "uchar"}  # in PLY


@dataclass(frozen=True)
class Points:
    """n points of one frame. pixels (n, 2): u, v in the network's frame; xyz (n, 3) world; rgb (n, 3) uint8."""

    frame: int
    pixels: NDArray[np.int64]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]

    def __getitem__(self, rows: NDArray[np.int64]) -> "Points":
        return Points(self.frame, self.pixels[rows], self.xyz[rows], self.rgb[rows])


class Cloud:
    """Points of the pixels that are left when the least confident `percent` of all frames' pixels are dropped.

    With `head`, points are the point head's with its own confidence; otherwise depth seen through the cameras. Frames
    are computed when asked for, so that never all points are in memory.
    """

    def __init__(self, prediction: Prediction, percent: float, head: bool) -> None:
        self.prediction, self.head = prediction, head
        confidence = prediction.points_confidence if head else prediction.confidence
        assert confidence is not None
        self._confidence = confidence
        found = values(confidence, self._usable)
        self.threshold = (
            float(np.percentile(found, percent, overwrite_input=True)) if found.size else float("nan")
        )
        counts = [self._counts(frame) for frame in range(len(confidence))]
        self.candidates, self._length = (sum(numbers) for numbers in zip(*counts, strict=True))

    def __len__(self) -> int:
        return self._length

    def _usable(self, frame: int, confidence: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(H, W) which pixels of a frame can be points."""
        p = self.prediction
        if self.head:
            assert p.points is not None
            there = np.asarray(np.isfinite(p.points[frame]).all(-1))
        else:
            there = positive(frame, p.depth[frame])
        return finite(frame, confidence) & there

    def _kept(self, frame: int) -> NDArray[np.bool_]:
        """(H, W) which of them are points."""
        confidence = self._confidence[frame]
        # at least, not above: where all pixels are equally confident, all stay
        return np.asarray(self._usable(frame, confidence) & (confidence >= self.threshold))

    def _counts(self, frame: int) -> tuple[int, int]:
        """Usable pixels of a frame, and its points."""
        confidence = self._confidence[frame]
        usable = self._usable(frame, confidence)
        return int(usable.sum()), int((usable & (confidence >= self.threshold)).sum())

    def frames(self) -> Iterator[Points]:
        """The points of one frame after the other."""
        for frame in range(len(self._confidence)):
            v, u = np.nonzero(self._kept(frame))
            rgb = self.prediction.inputs.pixels(frame)[v, u]
            yield Points(frame, np.stack([u, v], axis=-1), self._world(frame)[v, u], rgb)

    def thinned(self, limit: int) -> Iterator[Points]:
        """At most `limit` points, spread evenly over all of them."""
        total = len(self)
        taken, start = min(limit, total), 0
        for points in self.frames():
            end = start + len(points.xyz)
            # of all points those at 0, total / taken, 2 · total / taken, …, rounded down
            first, last = (-(-edge * taken // max(1, total)) for edge in (start, end))
            yield points[np.arange(first, last) * total // max(1, taken) - start]
            start = end

    def _world(self, frame: int) -> NDArray[np.float64]:
        """(H, W, 3)"""
        p, one = self.prediction, slice(frame, frame + 1)
        if self.head:
            assert p.points is not None
            return p.points[frame].astype(np.float64)
        depth = torch.from_numpy(p.depth[frame][None]).double()
        camera = torch.from_numpy(p.extrinsics[one]), torch.from_numpy(p.intrinsics[one])
        return np.asarray(unproject_depth(depth, *camera)[0].numpy())


def write_ply(path: Path, cloud: Cloud) -> None:
    """Binary little-endian PLY: x, y, z float32 and red, green, blue uint8, written frame by frame."""
    properties = [f"property {KINDS[kind]} {name}" for name, kind, *_ in VERTEX.descr]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment world frame: camera of the first image, x right, y down, z forward; unit unknown",
        f"element vertex {len(cloud)}",
        *properties,
        "end_header",
    ]
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(("\n".join(header) + "\n").encode("ascii"))
        for points in cloud.frames():
            stream.write(np.rec.fromarrays([*points.xyz.T, *points.rgb.T], dtype=VERTEX).tobytes())
