"""CO3Dv2, objects filmed from all around, with the protocol of VGGT's camera evaluation.

Reizenstein et al., Common Objects in 3D, ICCV 2021. Protocol (VGGT, Wang et al. 2025, section 4.1, as its published script has
it): the test sequences of set_lists_fewview_dev.json whose viewpoint quality is above 0.5, with at least 50 images and
translations below 1e5; 10 random images each; the categories seen in training. Which images are drawn differs, since that
script draws from one stream over all sequences.
"""

import functools
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vggtq.data.cameras.camera import Camera, CameraList, pinhole, pose_matrix
from vggtq.data.cameras.lens import Lens
from vggtq.data.published import PosedSequences
from vggtq.errors import DataError, check_choice

SEEN = (
    *("apple", "backpack", "banana", "baseballbat", "baseballglove", "bench", "bicycle", "bottle", "bowl", "broccoli", "cake"),
    *("car", "carrot", "cellphone", "chair", "cup", "donut", "hairdryer", "handbag", "hydrant", "keyboard", "laptop"),
    *("microwave", "motorcycle", "mouse", "orange", "parkingmeter", "pizza", "plant", "stopsign", "teddybear", "toaster"),
    *("toilet", "toybus", "toyplane", "toytrain", "toytruck", "tv", "umbrella", "vase", "wineglass"),
)  # fmt: skip
UNSEEN = (
    *("ball", "book", "couch", "frisbee", "hotdog", "kite", "remote", "sandwich", "skateboard", "suitcase"),
)
SPLITS = ("train", "test")
LEAST_QUALITY = 0.5
LEAST_IMAGES = 50
LARGEST_TRANSLATION = 1e5
# PyTorch3D's cameras look along +z with x to the left and y up.
FLIP_X_AND_Y = np.diag([-1.0, -1.0, 1.0])


@dataclass
class CO3D(PosedSequences):
    """Sequences of the categories in `scene`: seen (41), unseen (10), all, or names joined by +. Units are unknown.

    count: sequences of each category at most. Depth is not read: it comes from multi-view stereo, with holes.
    """

    name: str = "co3d"
    root: str = "data/co3d"
    scene: str = "seen"
    split: str = "test"

    known: ClassVar[tuple[str, ...]] = tuple(sorted(SEEN + UNSEEN))
    words: ClassVar[dict[str, tuple[str, ...]]] = {"seen": SEEN, "unseen": UNSEEN}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.split", self.split, SPLITS)

    def sequences(self) -> list[str]:
        def has_annotations(path: Path) -> bool:
            return (path / "frame_annotations.jgz").is_file()

        wanted = [place.partition("/")[::2] for place in self.places()]
        found: list[str] = []
        for category in self._below(list(dict(wanted)), has_annotations, "frame_annotations.jgz"):
            names = {sequence for name, sequence in wanted if name == category}
            there = [s for s in self._category(category) if names == {""} or s in names]
            found += [f"{category}/{sequence}" for sequence in there[: self.count]]
        if not found:
            raise DataError(
                f"{self.folder()}: scene={self.scene} has no {self.split} sequence of at least {LEAST_IMAGES} images and a "
                f"viewpoint quality above {LEAST_QUALITY}"
            )
        return found

    def taken(self) -> list[str]:
        return self.sequences()  # which have been counted by category

    def read(self, sequence: str) -> CameraList:
        category, _, name = sequence.partition("/")
        files = [self.folder() / category / file for file in _files()]
        cameras = [replace(c, image=self.folder() / c.image) for c in self._category(category)[name]]
        return CameraList(cameras, "opencv_w2c", files)

    def calibration(self, count: int, frames: int, seed: int) -> "CO3D":
        """Sequences of the other split."""
        other = "train" if self.split == "test" else "test"
        return replace(self, split=other, count=count, frames=frames, seed=seed, check_cameras=False)

    def _category(self, category: str) -> dict[str, list[Camera]]:
        folder = self.folder() / category
        return _sequences(folder, self.split, tuple((folder / file).stat().st_mtime_ns for file in _files()))


def _files() -> tuple[str, ...]:
    return ("frame_annotations.jgz", "sequence_annotations.jgz", "set_lists/set_lists_fewview_dev.json")


@functools.lru_cache(len(SEEN + UNSEEN))
def _sequences(folder: Path, split: str, changed: tuple[int, ...]) -> dict[str, list[Camera]]:
    """Cameras of the sequences that count, by name in alphabetical order; images relative to the root. changed: times, ns."""
    frames, sequences, lists = (_json(folder / file) for file in _files())
    with _complete(folder):
        good = {s["sequence_name"] for s in sequences if (s["viewpoint_quality_score"] or 0) > LEAST_QUALITY}
        listed = defaultdict(set)
        for sequence, number, _ in lists[split]:
            listed[sequence].add(number)
        found: dict[str, list[Camera]] = defaultdict(list)
        for frame in sorted(frames, key=lambda frame: frame["frame_number"]):
            if frame["sequence_name"] in good and frame["frame_number"] in listed[frame["sequence_name"]]:
                found[frame["sequence_name"]].append(_camera(frame))
    return {
        name: cameras
        for name, cameras in sorted(found.items())
        if len(cameras) >= LEAST_IMAGES
        and max(np.abs(c.pose[:3, 3]).max() for c in cameras) <= LARGEST_TRANSLATION
    }


def _camera(frame: dict[str, Any]) -> Camera:
    """x_camera = x_world R + T with rows as points: R and T to the usual matrix, and to OpenCV's axes."""
    view, (height, width) = frame["viewpoint"], frame["image"]["size"]
    rotation = FLIP_X_AND_Y @ np.array(view["R"]).T
    translation = FLIP_X_AND_Y @ np.array(view["T"])
    pose = pose_matrix(np.column_stack([rotation, translation]), frame["image"]["path"])
    return Camera(Path(frame["image"]["path"]), pose, _lens(view, width, height), (width, height))


def _lens(view: dict[str, Any], width: int, height: int) -> Lens:
    """Normalised device coordinates to pixels: from −1 to 1 along the shorter side, or along both in the older format."""
    half = np.array([width, height]) / 2
    isotropic = view.get("intrinsics_format", "ndc_norm_image_bounds") == "ndc_isotropic"
    scale = np.full(2, half.min()) if isotropic else half
    focal = np.array(view["focal_length"]) * scale
    centre = half - np.array(view["principal_point"]) * scale - 0.5
    return pinhole([*focal, *centre])


def _json(path: Path) -> Any:
    try:
        if path.suffix == ".jgz":
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                return json.load(stream)
        return json.loads(path.read_text("utf-8"))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; download this category's annotations again") from error


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: its annotations are not those of CO3Dv2 ({type(error).__name__}: {error})"
        ) from error
