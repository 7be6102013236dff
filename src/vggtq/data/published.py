"""Published data sets of posed sequences: their common parts, and RealEstate10K, 7-Scenes and DTU. Nothing is
downloaded.

docs/data.md gives the origin, the expected folders and the licence of each.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from vggtq.data.cameras.camera import CameraList, pinhole
from vggtq.data.cameras.posed import posed_scene
from vggtq.data.cameras.text_files import read_mvsnet, read_pose_files, read_realestate
from vggtq.data.preprocess import ImageOptions
from vggtq.data.scene import Scene
from vggtq.data.select import count, natural_key
from vggtq.errors import ConfigError, DataError, check_choice, did_you_mean

ORDERS = ("random", "spread")


@dataclass
class PosedSequences(ImageOptions):
    """A scene of `frames` images from each sequence (null: all images); frames and order do not depend on other sequences.

    scene: which, several joined by +, or a word for many; order: random, or spread evenly from the first image to the last;
    count: sequences at most (null: all).
    """

    name: str = "sequences"
    root: str = ""
    scene: str = "all"
    frames: int | None = 10
    order: str = "random"
    count: int | None = None
    seed: int = 0
    check_cameras: bool = True

    # Names for scene=, each for itself, and words for several of them; empty where names are whatever lies in `root`.
    known: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.order", self.order, ORDERS)
        for key, value, least in (("frames", self.frames, 1), ("count", self.count, 1)):
            if value is not None and value < least:
                raise ConfigError(f"dataset.{key}={value}: must be {least} or more, or null for all")
        self.places()

    def places(self) -> list[str]:
        """The places that `scene` names; empty for all where the names are not known beforehand. Raises
        ConfigError.
        """
        if self.scene in self.words:
            return list(self.words[self.scene])
        if self.scene == "all":
            return list(self.known)
        names = list(dict.fromkeys(self.scene.split("+")))
        for name in names if self.known else ():
            if name.split("/")[0] not in self.known:
                near = did_you_mean(name, self.known)
                words = ", ".join([*self.words, "all"])
                raise ConfigError(
                    f"scene={self.scene}: dataset={self.name} has no {name}{near}; valid: {', '.join(self.known)}, "
                    f"several joined by +, {words}"
                )
        return names

    def sequences(self) -> list[str]:
        """The names of all sequences. Raises DataError where there is none."""
        raise NotImplementedError

    def read(self, sequence: str) -> CameraList:
        """All cameras of a sequence. Raises DataError."""
        raise NotImplementedError

    def taken(self) -> list[str]:
        """The sequences that `count` leaves."""
        return self.sequences()[: self.count]

    def scenes(self) -> Iterator[Scene]:
        """Yields one scene after the other. Raises DataError."""
        for sequence in self.taken():
            listed = self._drawn(sequence)
            yield posed_scene(sequence, self.folder(), listed, self, self.check_cameras, listed.notes)

    def inputs(self) -> list[Path]:
        """The files that `scenes` reads."""
        listed = [self._drawn(sequence) for sequence in self.taken()]
        cameras = [camera for cameras in listed for camera in cameras.cameras]
        files = [file for cameras in listed for file in cameras.files]
        return list(
            dict.fromkeys([*files, *(c.image for c in cameras), *(c.depth for c in cameras if c.depth)])
        )

    def folder(self) -> Path:
        """The folder of the data. Raises DataError where it is not there."""
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"dataset.root={self.root}: no such folder; where dataset={self.name} comes from: docs/data.md"
            )
        return folder

    def _drawn(self, sequence: str) -> CameraList:
        listed = self.read(sequence)
        total = len(listed.cameras)
        if self.frames is None or self.frames >= total:
            few = f"it has {count(total, 'image')}, fewer than frames={self.frames}"
            return (
                replace(listed, notes=(*listed.notes, few)) if self.frames and total < self.frames else listed
            )
        if self.order == "random":
            taken = np.random.default_rng([self.seed, zlib.crc32(sequence.encode())]).choice(
                total, self.frames, replace=False
            )
        else:
            taken = np.linspace(0, total - 1, self.frames).round().astype(int)
        return replace(listed, cameras=[listed.cameras[i] for i in taken])

    def _below(self, places: Sequence[str], is_one: Callable[[Path], bool], what: str) -> list[str]:
        """Those of the folders that are there. Raises DataError where one is missing, or all are."""
        folder = self.folder()
        names = places or [path.name for path in folder.iterdir() if is_one(path)]
        missing = [name for name in names if not is_one(folder / name)]
        if missing or not names:
            raise DataError(
                f"{folder}: {what} of {', '.join(missing) or 'any sequence'} not found; name what is there with scene=, or see "
                f"docs/data.md on how dataset={self.name} is laid out"
            )
        return sorted(names, key=natural_key)


@dataclass
class RealEstate10K(PosedSequences):
    """Walks through buildings (Zhou et al., SIGGRAPH 2018): `split`/ID.txt, with images named by timestamp.

    Images are looked for in frames/`split`/ID, frames/ID and `split`/ID; frames of videos are not published with the cameras.
    """

    name: str = "realestate10k"
    root: str = "data/realestate10k"
    split: str = "test"

    def sequences(self) -> list[str]:
        files = [self.folder() / self.split / f"{name}.txt" for name in self.places()]
        if self.scene == "all":
            files = sorted((self.folder() / self.split).glob("*.txt"))
        found = [file.stem for file in files if file.is_file() and self._images(file.stem)]
        if not found or (self.scene != "all" and len(found) < len(files)):
            raise DataError(
                f"{self.folder()}: of {count(len(files), 'sequence')} {len(found)} have {self.split}/ID.txt and images in "
                f"frames/{self.split}/ID, frames/ID or {self.split}/ID; see docs/data.md"
            )
        return found

    def read(self, sequence: str) -> CameraList:
        images = self._images(sequence)
        with Image.open(next(iter(images.values()))) as image:  # of one video, all have one size
            size = image.size
        path = self.folder() / self.split / f"{sequence}.txt"
        listed = read_realestate(path, dict.fromkeys(images, size))
        if not listed.cameras:
            raise DataError(f"{path}: none of its timestamps is the name of an image")
        return replace(listed, cameras=[replace(c, image=images[c.image.name]) for c in listed.cameras])

    def _images(self, sequence: str) -> dict[str, Path]:
        """By timestamp."""
        for place in (f"frames/{self.split}", "frames", self.split):
            folder = self.folder() / place / sequence
            if found := {p.stem: p for p in folder.glob("*") if p.suffix in (".png", ".jpg")}:
                return found
        return {}


@dataclass
class Walks(PosedSequences):
    """Sequences that were filmed on a walk, with depth.

    stride: instead of `order` every stride-th image from the first on, at most `frames` of them; of a sequence
    that is too short for two, the first image and the middle one. require_depth: refuse images without depth.
    """

    order: str = "spread"
    stride: int | None = None
    require_depth: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride is not None and self.stride < 1:
            raise ConfigError(
                f"dataset.stride={self.stride}: must be 1 or more, or null for dataset.order={self.order}"
            )

    def _drawn(self, sequence: str) -> CameraList:
        if self.stride:
            listed = self.read(sequence)
            step = max(1, min(self.stride, len(listed.cameras) // 2))
            listed = replace(listed, cameras=listed.cameras[::step][: self.frames])
        else:
            listed = super()._drawn(sequence)
        missing = [camera.image for camera in listed.cameras if not camera.depth]
        if missing and self.require_depth:
            raise DataError(
                f"{sequence}: {len(missing)} of {count(len(listed.cameras), 'image')} have no depth, first {missing[0]}; "
                f"depth and points are measured against it: docs/data.md says which files it is read from; "
                f"dataset.require_depth=false measures without"
            )
        return listed


@dataclass
class SevenScenes(Walks):
    """Rooms seen by a Kinect (Shotton et al., CVPR 2013): the sequences of each room's TestSplit.txt. Units are metres.

    The colour camera is not calibrated: `intrinsics` (fx, fy, cx, cy; pixels) are the values that others use. Depth is only
    read where it was registered to the colour images (frame-XXXXXX.depth.proj.png), since the depth as published is not.
    """

    name: str = "seven_scenes"
    root: str = "data/seven_scenes"
    intrinsics: list[float] = field(default_factory=lambda: [525.0, 525.0, 319.5, 239.5])

    known: ClassVar[tuple[str, ...]] = (
        *("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs"),
    )

    def sequences(self) -> list[str]:
        found = []
        for place in self._below(self.places(), lambda p: (p / "TestSplit.txt").is_file(), "TestSplit.txt"):
            text = (self.folder() / place / "TestSplit.txt").read_text("utf-8")
            found += [f"{place}/seq-{int(word.removeprefix('sequence')):02d}" for word in text.split()]
        return found

    def read(self, sequence: str) -> CameraList:
        listed = read_pose_files(self.folder() / sequence)
        if not listed.cameras:
            raise DataError(
                f"{self.folder() / sequence}: no .pose.txt file; unpack {Path(sequence).name}.zip"
            )
        lens = pinhole(self.intrinsics)
        return replace(listed, cameras=[replace(camera, lens=lens) for camera in listed.cameras])


@dataclass
class DTU(PosedSequences):
    """Objects seen by a robot (Jensen et al., CVPR 2014), in MVSNet's layout: SCAN/images, SCAN/cams. Units are metres.

    all: the 22 scans on which multi-view stereo is evaluated. SCAN/depths/00000000.pfm is read where it is there.
    """

    name: str = "dtu"
    root: str = "data/dtu"
    order: str = "spread"

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "all": tuple(
            f"scan{i}"
            for i in (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
        )
    }

    def sequences(self) -> list[str]:
        return self._below(self.places(), lambda path: (path / "cams").is_dir(), "cams")

    def read(self, sequence: str) -> CameraList:
        return read_mvsnet(self.folder() / sequence / "cams")
