"""ETH3D high-resolution multi-view scenes: photographs, exact cameras and laser-scanned depth.

Schöps et al., A multi-view stereo benchmark with high-resolution images and multi-camera videos, CVPR 2017,
https://www.eth3d.net (CC BY-NC-SA 4.0, not for commercial use). Download a scene with

    python -m vggtq.data.eth3d courtyard --with depth

The depth files belong to the photographs as taken (THIN_PRISM_FISHEYE), not to the undistorted images that
the network sees, so depth is resampled: see `vggtq.data.eth3d_depth`. Scans and sparse points are not read.
"""

import argparse
import dataclasses
import os
import signal
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C while the libraries below are imported, which takes seconds
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import numpy as np
import torch

from vggtq.data.colmap import ColmapCamera, ColmapImage, read_cameras, read_images
from vggtq.data.download import fetch, unpack
from vggtq.data.eth3d_depth import DistortedDepth
from vggtq.data.preprocess import check_options, preprocess
from vggtq.data.scene import GroundTruth, ImageFile, Scene
from vggtq.data.select import check_selection, count, natural_key, select
from vggtq.errors import ConfigError, DataError, VggtqError, did_you_mean

if TYPE_CHECKING:
    from vggtq.data.sequences import ETH3DSequences

SCENES = (
    *("courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes", "playground"),
    *("relief", "relief_2", "terrace", "terrains"),
)
LICENCE = "ETH3D: CC BY-NC-SA 4.0, https://www.eth3d.net (non-commercial; cite Schöps et al., CVPR 2017)"
BASE_URL = "https://www.eth3d.net/data/"
ARCHIVES = {  # part: what its file name ends in
    "undistorted": "dslr_undistorted",
    "jpg": "dslr_jpg",
    "depth": "dslr_depth",
    "occlusion": "dslr_occlusion",
    "scan": "dslr_scan_eval",
}
KNOWN_BYTES = {"courtyard_dslr_undistorted.7z": 500_990_569}


@dataclass
class ETH3D:
    """Each scene as one sequence, images in natural order of their names. Units are metres.

    `scene` names one scene, several as courtyard+electro, or all 13.

    Poses and intrinsics come from `dslr_calibration_undistorted`. Depth is used where `ground_truth_depth`
    and `dslr_calibration_jpg` exist (use_depth=false leaves it out); pixels that `masks_for_images` marks as
    not for evaluation have none (use_masks). Both layouts are read: `images/dslr_images_undistorted` and
    `dslr_images_undistorted`.
    """

    name: str = "eth3d"
    root: str = "data/eth3d"
    scene: str = "courtyard"
    image_size: int = 518
    mode: str = "crop"
    patch_size: int = 14
    max_images: int | None = None
    start: int = 0
    stride: int = 1
    use_depth: bool = True
    use_masks: bool = True

    def __post_init__(self) -> None:
        for name in self.names:
            check_scene(name)
        check_options(self.mode, self.image_size, self.patch_size)
        check_selection(self.start, self.stride, self.max_images)

    @property
    def names(self) -> list[str]:
        return scene_names(self.scene)

    def scenes(self) -> Iterator[Scene]:
        """Yields scene after scene. Raises DataError when files are missing, damaged or contradict each other."""
        for name in self.names:
            yield dataclasses.replace(self, scene=name)._load()

    def _load(self) -> Scene:
        folder = Path(self.root).expanduser() / self.scene
        image_folder = self._image_folder(folder)
        frames, sources = self._registered(folder / "dslr_calibration_undistorted")
        paths = [image_folder / Path(frame.name).name for frame in frames]
        if missing := [path for path in paths if not path.is_file()]:
            raise DataError(
                f"{len(missing)} of {count(len(paths), 'image')} {'is' if len(missing) == 1 else 'are'} missing, "
                f"first {missing[0]}; "
                f"run: {self._command()}"
            )
        images, transforms, files, notes = preprocess(paths, self.mode, self.image_size, self.patch_size)
        files = [
            dataclasses.replace(file, path=path.relative_to(folder).as_posix())
            for file, path in zip(files, paths, strict=True)
        ]
        _check_sizes(files, sources, folder)
        intrinsics = np.stack(
            [
                np.asarray(t.intrinsics(source.pinhole()))
                for t, source in zip(transforms, sources, strict=True)
            ]
        )
        notes = list(notes)
        depth = None
        if self._has_depth(folder, notes):
            size = (images.shape[-2], images.shape[-1])
            depth = DistortedDepth(folder, self.use_masks).on_frames(frames, sources, intrinsics, size, notes)
        truth = GroundTruth(
            extrinsics=torch.from_numpy(np.stack([frame.extrinsics for frame in frames])),
            intrinsics=torch.from_numpy(intrinsics),
            depth=None if depth is None else torch.from_numpy(depth),
            metric=True,
        )
        return Scene(self.scene, images, tuple(files), truth, tuple(notes))

    def available(self) -> int:
        """How many images its scenes have. Raises DataError."""
        calibrations = [
            Path(self.root).expanduser() / name / "dslr_calibration_undistorted" for name in self.names
        ]
        return sum(len(read_images(c / "images.txt", read_cameras(c / "cameras.txt"))) for c in calibrations)

    def calibration(self, count: int, frames: int, seed: int) -> "ETH3DSequences":
        """Sequences of other scenes."""
        from vggtq.data.sequences import ETH3DSequences

        size: dict[str, Any] = {
            "image_size": self.image_size,
            "mode": self.mode,
            "patch_size": self.patch_size,
        }
        return ETH3DSequences(self.name, self.root, self.scene, count, frames, seed, **size)

    def inputs(self) -> list[Path]:
        """Cameras and images of every scene, and the depth maps and masks of the same frames."""
        return [file for name in self.names for file in dataclasses.replace(self, scene=name)._files()]

    def _files(self) -> list[Path]:
        folder = Path(self.root).expanduser() / self.scene
        undistorted = folder / "dslr_calibration_undistorted"
        names = [Path(frame.name).name for frame in self._registered(undistorted)[0]]
        files = [undistorted / "cameras.txt", undistorted / "images.txt"]
        files += [self._image_folder(folder) / name for name in names]
        if self.use_depth:
            files += DistortedDepth(folder, self.use_masks).files(names)
        return files

    def _registered(self, calibration: Path) -> tuple[list[ColmapImage], list[ColmapCamera]]:
        """The selected frames in natural order, and the camera of each."""
        cameras = read_cameras(calibration / "cameras.txt")
        images = read_images(calibration / "images.txt", cameras).values()
        frames = sorted(images, key=lambda image: natural_key(image.name))
        frames = select(frames, self.start, self.stride, self.max_images, f"{self.root}/{self.scene}")
        return frames, [cameras[frame.camera_id] for frame in frames]

    def _has_depth(self, folder: Path, notes: list[str]) -> bool:
        depth = DistortedDepth(folder, self.use_masks)
        if not self.use_depth or not depth.exists:
            return False
        if not depth.calibrated:
            notes.append(
                "depth was not used: it belongs to the distorted photographs, and dslr_calibration_jpg, "
                f"which describes them, is missing; download it: {self._command('jpg')}"
            )
        return depth.calibrated

    def _command(self, parts: str = "") -> str:
        root = "" if self.root == type(self).root else f" --root {self.root}"
        return f"python -m vggtq.data.eth3d {self.scene}{root}{f' --with {parts}' if parts else ''}"

    def _image_folder(self, folder: Path) -> Path:
        for place in ("images/dslr_images_undistorted", "dslr_images_undistorted"):
            if (folder / place).is_dir():
                return folder / place
        raise DataError(f"no ETH3D images in {folder}; download them: {self._command()}")


def _check_sizes(files: Sequence[ImageFile], cameras: Sequence[ColmapCamera], folder: Path) -> None:
    for file, camera in zip(files, cameras, strict=True):
        if (file.width, file.height) != (camera.width, camera.height):
            raise DataError(
                f"{folder / file.path} is {file.width}x{file.height}, its camera {camera.camera_id} in "
                f"dslr_calibration_undistorted is {camera.width}x{camera.height}; "
                "unpack images and calibration of the same archive"
            )


def scene_names(scene: str) -> list[str]:
    """Of a scene, several as courtyard+electro, or all; each once."""
    return list(SCENES) if scene == "all" else list(dict.fromkeys(scene.split("+")))


def check_scene(scene: str) -> None:
    """Raises ConfigError unless scene is one of the 13 training scenes."""
    if scene not in SCENES:
        raise ConfigError(
            f"ETH3D has no training scene {scene!r}{did_you_mean(scene, SCENES)}; valid: {', '.join(SCENES)}; "
            "several in one run: courtyard+electro or all"
        )


def check_url(url: str) -> str:
    """The address of a mirror's folder with its last slash. Raises ConfigError for what is no web address."""
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--url {url}: not a web address; give https://HOST/FOLDER/")
    return url if url.endswith("/") else f"{url}/"


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def download(scene: str, root: Path, parts: Sequence[str], base_url: str | None = None) -> None:
    """Fetches and unpacks the archives of a scene below root; what is unpacked already is left alone.

    parts: keys of ARCHIVES. Raises ConfigError, DataError, MissingExtraError.
    """
    check_scene(scene)
    base_url = check_url(base_url or BASE_URL)
    try:
        _download(scene, root, parts, base_url)
    except OSError as error:
        raise DataError(
            f"cannot write below {root} ({error.strerror or error}); give another --root"
        ) from error


def _download(scene: str, root: Path, parts: Sequence[str], base_url: str) -> None:
    for part in parts:
        archive = root / f"{scene}_{ARCHIVES[part]}.7z"
        # inside the scene, so that deleting the scene's folder asks for a new download
        done = root / scene / f".{archive.name}.unpacked"
        if done.exists():
            print(f"{archive.name}: already unpacked in {root / scene}")
            continue
        if not archive.exists():
            fetch(base_url + archive.name, archive, KNOWN_BYTES.get(archive.name))
        print(f"{archive.name}: unpacking, this takes minutes")
        members = unpack(archive, root)
        done.parent.mkdir(exist_ok=True)
        done.write_text(f"{LICENCE}\n", encoding="utf-8")
        archive.unlink()
        print(f"{archive.name}: {members} files and folders in {root / scene}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the downloader; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vggtq.data.eth3d", description="Downloads ETH3D scenes.")
    parser.add_argument("scenes", help=f"comma-separated: {', '.join(SCENES)}")
    parser.add_argument("--root", type=Path, default=Path(ETH3D.root))
    parser.add_argument(
        "--with", dest="parts", default="", help=f"comma-separated extras: {', '.join(ARCHIVES)}"
    )
    parser.add_argument("--url", default=BASE_URL, help="a mirror")
    options = parser.parse_args(argv)
    print(LICENCE)
    try:
        extras = _listed(options.parts)
        if unknown := [part for part in extras if part not in ARCHIVES]:
            raise ConfigError(
                f"--with {unknown[0]}{did_you_mean(unknown[0], ARCHIVES)}; valid: {', '.join(ARCHIVES)}"
            )
        # depth cannot be used without the calibration that comes with the photographs as taken
        implied = ["jpg"] if "depth" in extras else []
        scenes = _listed(options.scenes)
        if not scenes:
            raise ConfigError(f"no scene given; valid: {', '.join(SCENES)}")
        check_url(options.url)
        for scene in scenes:
            check_scene(scene)
        for scene in scenes:
            download(
                scene, options.root, list(dict.fromkeys(["undistorted", *extras, *implied])), options.url
            )
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
    except VggtqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(main())
