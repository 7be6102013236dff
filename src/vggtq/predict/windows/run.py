"""A prediction of many images: the network runs on one window after the other, and its predictions become one.

Every window is written to a file when it is done. Images and maps are read from files frame by frame, so that memory does not
grow with the number of images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggtq.artifact.read import QuantizedModel
from vggtq.files.cache import Entry, Tensors
from vggtq.geometry import unproject_depth
from vggtq.models.network import Network
from vggtq.predict.inputs import Inputs
from vggtq.predict.per_frame import PerFrame
from vggtq.predict.result import Prediction, PredictionError, as_prediction
from vggtq.predict.windows.align import Alignment, AlignmentError, align
from vggtq.predict.windows.features import AT_A_TIME, features
from vggtq.predict.windows.layout import Features, Layout, cut
from vggtq.predict.windows.options import Windows
from vggtq.predict.windows.store import Store, names_in, path_of, row, whole
from vggtq.terminal.progress import Steps

FITTED = "intrinsics_fitted"  # the name of a tensor that says so


@dataclass(frozen=True)
class Seen:
    """Windows that are predicted. files: of them, in the order of the layout. found: how many an earlier start had left."""

    windows: Windows
    layout: Layout
    files: tuple[Path, ...]
    found: int


def predict_windows(
    loaded: QuantizedModel, inputs: Inputs, windows: Windows, head: bool, store: Store, steps: Steps
) -> Seen:
    """Predicts the windows that the store does not have. head: with the network's own points. Raises PredictionError."""
    network = loaded.module
    assert isinstance(network, Network)
    parts = _parts(inputs, store)
    steps.step("comparing images", len(parts))
    layout = cut(windows, len(inputs.names), lambda: _features(network, inputs, parts, store, steps))
    entries = [store.entry(images=_identity(inputs, window)) for window in layout.windows]
    store.keep_only([*parts, *entries])
    steps.step(f"predicting {len(entries)} windows", len(entries))
    found = 0
    for window, entry in zip(layout.windows, entries, strict=True):
        if store.has(entry):
            found += 1
        else:
            store.write(entry, _look(loaded, inputs.only(window), head))
        steps.advance()
    return Seen(windows, layout, tuple(map(path_of, entries)), found)


def _parts(inputs: Inputs, store: Store) -> list[Entry]:
    """The entries of the features of all images, a few images at a time."""
    starts = range(0, len(inputs.names), AT_A_TIME)
    total = len(inputs.names)
    return [
        store.entry(features=_identity(inputs, range(start, min(start + AT_A_TIME, total))))
        for start in starts
    ]


def _features(
    network: Network, inputs: Inputs, parts: Sequence[Entry], store: Store, steps: Steps
) -> Features:
    device, found = next(network.parameters()).device, list[NDArray[np.float32]]()
    for number, part in enumerate(parts):
        some = slice(number * AT_A_TIME, (number + 1) * AT_A_TIME)

        def compute(some: slice = some) -> Tensors:
            return {"features": torch.from_numpy(features(network, inputs.images[some], device))}

        found.append(store.get(part, compute)["features"].numpy())
        steps.advance()
    return np.concatenate(found)


def _identity(inputs: Inputs, images: Sequence[int]) -> dict[str, Any]:
    """The images by their content, and how they were prepared, which may depend on the other images."""
    return {
        "mode": inputs.mode,
        "size": inputs.size_hw,
        "sha256": [inputs.files[i].sha256 for i in images],
        "transforms": [list(vars(inputs.transforms[i]).values()) for i in images],
    }


def _look(loaded: QuantizedModel, window: Inputs, head: bool) -> Tensors:
    """Predicts the images of one window. Returns the contents of its file."""
    prediction = as_prediction(window, loaded.predict(window.images), head)
    names = ("extrinsics", "intrinsics", "depth", "confidence", "points", "points_confidence")
    arrays = {name: getattr(prediction, name) for name in names}
    found = {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}
    return found | ({FITTED: torch.ones(1)} if prediction.intrinsics_fitted else {})


def joined(inputs: Inputs, seen: Seen) -> tuple[Prediction, dict[str, Any]]:
    """The prediction of all images in the world of the first, read from files, and the index's entry about its
    windows.

    Raises PredictionError where two windows cannot be aligned.
    """
    layout = seen.layout
    try:
        alignment = align(layout, lambda number: WindowFile(seen.files[number]))
    except AlignmentError as error:
        raise PredictionError(
            f"{error} of {len(layout.windows)} share no usable points; use a larger windows.overlap, or windows.frames"
        ) from error
    described = asdict(seen.windows) | {
        "overlap": seen.windows.shared,
        "windows": layout.along,
        "loops": len(layout.windows) - layout.along,
        "found": seen.found,
    }
    return merged(inputs, seen, alignment), described | alignment.described()


class WindowFile:
    """The prediction of one window, read from its file: a `Look`."""

    def __init__(self, path: Path) -> None:
        self._path, self._own = path, "points" in names_in(path)
        self.extrinsics: NDArray[np.float64] = whole(path, "extrinsics")
        self._intrinsics: NDArray[np.float64] = whole(path, "intrinsics")
        self.pixels = row(path, "confidence", 0).size

    def grid(self, places: Sequence[int], step: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Points (n, h, w, 3) in the window's own world and confidence (n, h, w), NaN where there is none."""
        points = [self._points(place)[::step, ::step] for place in places]
        name = "points_confidence" if self._own else "confidence"
        confidence = [row(self._path, name, place)[::step, ::step] for place in places]
        return np.stack(points), np.stack(confidence)

    def _points(self, place: int) -> NDArray[np.floating]:
        """(H, W, 3), from depth where the network has no other."""
        if self._own:
            return row(self._path, "points", place)
        depth = row(self._path, "depth", place)
        known = torch.from_numpy(np.where(depth > 0, depth, np.nan)[None]).double()
        camera = self.extrinsics[place][None], self._intrinsics[place][None]
        return np.asarray(unproject_depth(known, *map(torch.from_numpy, camera))[0].numpy())


def merged(inputs: Inputs, seen: Seen, alignment: Alignment) -> Prediction:
    """Every image as the window saw it in which it lies deepest; lengths in the unit of the first window."""
    owners, files = seen.layout.owners(), seen.files
    poses, lenses = ([whole(file, name) for file in files] for name in ("extrinsics", "intrinsics"))
    cameras = [alignment.worlds[n].cameras(poses[n][place : place + 1])[0] for n, place in owners]

    def depth(frame: int) -> NDArray[np.float32]:
        number, place = owners[frame]
        return row(files[number], "depth", place) * np.float32(alignment.worlds[number].scale)

    def points(frame: int) -> NDArray[np.float32]:
        number, place = owners[frame]
        return alignment.worlds[number].points(row(files[number], "points", place)).astype(np.float32)

    def stored(name: str) -> PerFrame:
        return PerFrame(len(owners), lambda frame: row(files[owners[frame][0]], name, owners[frame][1]))

    names, total = names_in(files[0]), len(owners)
    own = "points" in names
    return Prediction(
        inputs,
        np.stack(cameras),
        np.stack([lenses[number][place] for number, place in owners]),
        PerFrame(total, depth),
        stored("confidence"),
        PerFrame(total, points) if own else None,
        stored("points_confidence") if own else None,
        FITTED in names,
    )
