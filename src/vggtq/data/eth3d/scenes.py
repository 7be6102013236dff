"""ETH3D high-resolution multi-view scenes: photographs, exact cameras and laser-scanned depth.

Schöps et al., A multi-view stereo benchmark with high-resolution images and multi-camera videos, CVPR 2017,
https://www.eth3d.net (CC BY-NC-SA 4.0, not for commercial use). Download a scene with

    vggtq download courtyard parts=depth

The depth files belong to the photographs as taken (THIN_PRISM_FISHEYE), not to the undistorted images that
the network sees, so depth is resampled: see `vggtq.data.eth3d.depth`. Scans and sparse points are not read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vggtq.data.cameras.colmap import ColmapCamera, ColmapImage, read_cameras, read_images
from vggtq.data.eth3d.depth import DistortedDepth
from vggtq.data.scene import GroundTruth, ImageFile, Scene
from vggtq.data.select import Selection, count, cut, drawn, natural_key
from vggtq.errors import ConfigError, DataError, did_you_mean

SCENES = (
    *("courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes", "playground"),
    *("relief", "relief_2", "terrace", "terrains"),
)


@dataclass
class ETH3D(Selection):
    """Each scene as one sequence, images in natural order of their names. Units are metres.

    `scene` names one scene, several as courtyard+electro, or all 13; `images` names some of its images, in their order.

    Poses and intrinsics come from `dslr_calibration_undistorted`. Depth is used where `ground_truth_depth`
    and `dslr_calibration_jpg` exist (use_depth=false leaves it out); pixels that `masks_for_images` marks as
    not for evaluation have none (use_masks). Both layouts are read: `images/dslr_images_undistorted` and
    `dslr_images_undistorted`.
    """

    name: str = "eth3d"
    root: str = "data/eth3d"
    scene: str = "courtyard"
    use_depth: bool = True
    use_masks: bool = True
    images: list[str] | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            check_scene(name)
        super().__post_init__()

    @property
    def names(self) -> list[str]:
        """Of a scene, several as courtyard+electro, or all; each once."""
        return list(SCENES) if self.scene == "all" else list(dict.fromkeys(self.scene.split("+")))

    def scenes(self) -> Iterator[Scene]:
        """Yields scene after scene. Raises DataError when files are missing, damaged or contradict each other."""
        for name in self.names:
            yield replace(self, scene=name)._load()

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
        images, transforms, files, notes = self.preprocessed(paths)
        files = [
            replace(file, path=path.relative_to(folder).as_posix())
            for file, path in zip(files, paths, strict=True)
        ]
        _check_sizes(files, sources, folder)
        intrinsics = [t.intrinsics(source.pinhole()) for t, source in zip(transforms, sources, strict=True)]
        depth = None
        if self._has_depth(folder, notes):
            size = (images.shape[-2], images.shape[-1])
            depth = DistortedDepth(folder, self.use_masks).on_frames(frames, sources, intrinsics, size, notes)
        truth = GroundTruth.of([frame.extrinsics for frame in frames], intrinsics, depth, metric=True)
        return Scene(self.scene, images, tuple(files), truth, tuple(notes))

    def available(self) -> int:
        """The number of images of its scenes. Raises DataError."""
        calibrations = [
            Path(self.root).expanduser() / name / "dslr_calibration_undistorted" for name in self.names
        ]
        return sum(len(read_images(c / "images.txt", read_cameras(c / "cameras.txt"))) for c in calibrations)

    def calibration(self, count: int, frames: int, seed: int) -> "ETH3DSequences":
        """Sequences of other scenes."""
        return ETH3DSequences(self, count, frames, seed)

    def inputs(self) -> list[Path]:
        """Cameras and images of every scene, and the depth maps and masks of the same frames."""
        return [file for name in self.names for file in replace(self, scene=name)._files()]

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
        if self.images is not None:
            named = {Path(image.name).name: image for image in frames}
            if lost := [name for name in self.images if name not in named]:
                raise DataError(
                    f"{calibration} knows no image {lost[0]}; dataset.images takes file names such as {next(iter(named), '')}"
                )
            frames = [named[name] for name in self.images]
        frames = self.select(frames, f"{self.root}/{self.scene}")
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
        root = "" if self.root == type(self).root else f" root={self.root}"
        return f"vggtq download {self.scene}{root}{f' parts={parts}' if parts else ''}"

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


def check_scene(scene: str) -> None:
    """Raises ConfigError unless scene is one of the 13 training scenes."""
    if scene not in SCENES:
        raise ConfigError(
            f"ETH3D has no training scene {scene!r}{did_you_mean(scene, SCENES)}; valid: {', '.join(SCENES)}; "
            "several in one run: courtyard+electro or all"
        )


@dataclass
class ETH3DSequences:
    """`count` sequences of the scenes that are downloaded, without those that are evaluated and others of the same place."""

    evaluated: ETH3D
    count: int
    frames: int
    seed: int

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
        scene, root = self.evaluated.scene, self.evaluated.root
        # relief and relief_2 are two visits to one place.
        places = {name.split("_")[0] for name in self.evaluated.names}
        others = [name for name in SCENES if name.split("_")[0] not in places]
        if not others:
            raise ConfigError(
                f"calibration=dataset: scene={scene} evaluates every scene, so that none is left to calibrate on; "
                f"use calibration=objects, or calibration=images calibration.dataset.path=DIR"
            )
        found = [name for name in others if (Path(root).expanduser() / name).is_dir()]
        if not found:
            raise DataError(
                f"calibration=dataset: {root} has no scene but {scene}, which is evaluated; "
                f"run: vggtq download {others[0]}"
            )
        starts = []
        for name in found:
            folder = replace(
                self.evaluated, scene=name, start=0, stride=1, max_images=self.frames, use_depth=False
            )
            starts += [(folder, start) for start, *_ in cut(range(folder.available()), self.frames)]
        return [replace(folder, start=start) for folder, start in drawn(starts, self.count, self.seed)]
