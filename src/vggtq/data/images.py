"""Your own photographs: a folder of images, with cameras and depth where a file gives them."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.data.cameras.camera import CONVENTIONS, Camera, CameraList, pinhole
from vggtq.data.cameras.posed import posed_scene, relative
from vggtq.data.cameras.read import find_cameras, located, read_cameras
from vggtq.data.decode import HEIC_SUFFIXES
from vggtq.data.preprocess import ImageOptions
from vggtq.data.scene import Scene
from vggtq.data.select import Selection, count, cut, drawn, natural_key
from vggtq.errors import ConfigError, DataError, check_choice

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_SUFFIXES = (".gif", ".webp", ".tif", ".tiff", ".bmp", ".avif")  # pictures that people expect to be read
# where ETH3D and COLMAP put images below the folder that people name
PLACES = (".", "images", "dslr_images_undistorted", "images/dslr_images_undistorted")


@dataclass
class ImageFolder(Selection):
    """One scene from the images in `path`, in natural order (frame2 before frame10).

    Images are searched in the folder itself, in the usual subfolders (`PLACES`), and then in all subfolders together. The first
    place with an image is used, and the record names it. `path` may also be a single image, which is a scene of one frame.

    Files: .jpg, .jpeg and .png in any letter case; the content must be JPEG or PNG. Images of different sizes are padded to
    the largest. Hidden files and folders (such as macOS `._x.jpg`) are skipped. HEIC files are skipped with a note, unless
    there are no others. A damaged or empty image is an error.

    cameras: a file or folder in a format of `vggtq.data.cameras.read`, auto (the first such file in `path`), or null for
    none. The images are those that it lists. Poses, intrinsics and depth become ground truth. A missing image or one of
    another size is an error. A cameras.json of another program is ignored with a note. convention: of the poses, for files
    that do not follow their format. intrinsics: fx, fy, cx, cy in pixels, for files without intrinsics. check_cameras:
    compares the cameras with the photographs first (`vggtq.data.cameras.check`).
    """

    name: str = "images"
    path: str = ""
    cameras: str | None = "auto"
    convention: str | None = None
    intrinsics: list[float] | None = None
    check_cameras: bool = True

    def __post_init__(self) -> None:
        _check_path(self.path)
        super().__post_init__()
        if self.convention is not None:
            check_choice("dataset.convention", self.convention, CONVENTIONS)
        if self.intrinsics is not None and (len(self.intrinsics) != 4 or min(self.intrinsics[:2]) <= 0):
            raise ConfigError(
                f"dataset.intrinsics={self.intrinsics}: give [fx,fy,cx,cy] in pixels, focal lengths above 0"
            )

    def scenes(self) -> Iterator[Scene]:
        """Yields the one scene. Raises DataError for a path, image or camera file that cannot be used."""
        notes: list[str] = []
        root, listed, chosen = self._chosen(notes)
        for note in notes:
            log.info(note)
        place = root.resolve()
        name = place.stem if root.is_file() else place.name
        if listed is not None:
            taken = dataclasses.replace(
                listed, cameras=[camera for _, camera in chosen if camera is not None]
            )
            yield posed_scene(name, root, taken, self, self.check_cameras, notes)
            return
        images, _, files, more = self.preprocessed([path for path, _ in chosen])
        described = (relative(file, path, root) for file, (path, _) in zip(files, chosen, strict=True))
        yield Scene(name, images, tuple(described), notes=(*notes, *more))

    def root(self) -> Path:
        """The folder, or the single image. Raises DataError where there is none."""
        root = Path(self.path).expanduser()
        if not root.exists():
            raise DataError(f"dataset.path={self.path} does not exist; name the folder with your images")
        return root

    def split(self) -> tuple[list[Path], list[Path]]:
        """All images in order: those that `scenes` takes, and the others."""
        root = self.root()
        notes: list[str] = []
        paths = [path for path, _ in _listed(root, self._cameras(root, notes), notes)]
        taken = self.select(paths, self.path)
        return taken, [path for path in paths if path not in set(taken)]

    def calibration(self, count: int, frames: int, seed: int) -> "ImageSequences":
        """Its images that are not evaluated, as sequences."""
        return ImageSequences(self.name, self.path, count, frames, seed, without=self, **self.of_images)

    def inputs(self) -> list[Path]:
        """The images, and where there are cameras their file and the depth maps."""
        _, listed, chosen = self._chosen([])
        depths = [camera.depth for _, camera in chosen if camera is not None and camera.depth]
        return [path for path, _ in chosen] + ([*listed.files, *depths] if listed else [])

    def _chosen(self, notes: list[str]) -> tuple[Path, CameraList | None, list[tuple[Path, Camera | None]]]:
        """The folder, its list of cameras, and the selected images, each with its camera."""
        root = self.root()
        listed = self._cameras(root, notes)
        found = _listed(root, listed, notes)
        return root, listed, self.select(found, self.path)

    def _cameras(self, root: Path, notes: list[str]) -> CameraList | None:
        """All cameras, as the options say that they are to be understood."""
        if self.cameras is None or (self.cameras == "auto" and root.is_file()):
            return None
        path = find_cameras(root) if self.cameras == "auto" else Path(self.cameras).expanduser()
        listed = None if path is None else read_cameras(path)
        if path is None or listed is None:
            if self.cameras != "auto":
                raise DataError(
                    f"dataset.cameras={self.cameras} has no list of images in a format that is read"
                )
            if path is not None:
                notes.append(f"{path.name} has no list of images in the documented format and was ignored")
            return None
        if listed.named:
            listed = located(listed, find_images(root, []))
        if self.intrinsics is not None:
            lens = pinhole(self.intrinsics)
            given = [c if c.lens else dataclasses.replace(c, lens=lens) for c in listed.cameras]
            listed = dataclasses.replace(listed, cameras=given)
        if path.name != "cameras.json":
            notes.append(
                f"cameras read from {path.relative_to(root) if path.is_relative_to(root) else path.name}"
            )
        notes += listed.notes
        return dataclasses.replace(listed, convention=self.convention or listed.convention)


def _check_path(path: str) -> None:
    if not path:
        raise ConfigError("dataset.path is empty: name the folder with your images, dataset.path=DIR")


def find_images(root: Path, notes: list[str]) -> list[Path]:
    """Images of the first place that has any, in natural order; decisions are added to notes.

    Raises DataError when there is none.
    """
    for place in PLACES:
        folder = root / place
        found = [p for p in _visible(folder) if not p.is_dir()] if folder.is_dir() else []
        if images := _with_suffix(found, SUFFIXES):
            return _report(images, found, f"{place}/" if place != "." else "", notes)
    found = list(_walk(root, set()))
    if images := _with_suffix(found, SUFFIXES):
        folders = {p.parent for p in images}
        return _report(images, found, f"{count(len(folders), 'subfolder')}, searched recursively", notes)
    if heic := _with_suffix(found, HEIC_SUFFIXES):
        which = ("the only image is", "it") if len(heic) == 1 else (f"all {len(heic)} images are", "them")
        raise DataError(
            f"{root}: {which[0]} HEIC, which cannot be read; convert {which[1]} to JPEG first, "
            "for instance: magick mogrify -format jpg *.HEIC"
        )
    raise DataError(f"{root}: no image found here or below; expected {', '.join(SUFFIXES)}")


def _report(images: list[Path], found: list[Path], where: str, notes: list[str]) -> list[Path]:
    if where:
        notes.append(f"{count(len(images), 'image')} found in {where}")
    if heic := _with_suffix(found, HEIC_SUFFIXES):
        notes.append(f"{count(len(heic), 'HEIC file')} skipped; convert to JPEG to use them")
    if others := _with_suffix(found, OTHER_SUFFIXES):
        notes.append(
            f"{count(len(others), 'image')} of another format skipped, first {others[0].name}; convert to JPEG or PNG"
        )
    return images


def _with_suffix(paths: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    return [p for p in paths if p.suffix.lower() in suffixes]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(
            (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_key(p.name)
        )
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from error


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Files below folder; every real folder once, so that symbolic links cannot go round in circles."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for item in _visible(folder):
        if item.is_dir():
            yield from _walk(item, seen)
        else:
            yield item


def _listed(root: Path, listed: CameraList | None, notes: list[str]) -> list[tuple[Path, Camera | None]]:
    if listed is not None:
        return [(camera.image, camera) for camera in listed.cameras]
    paths = [root] if root.is_file() else find_images(root, notes)
    return [(path, None) for path in paths]


@dataclass
class ImageSequences(ImageOptions):
    """`count` sequences of the images in `path`, fewer where there are not so many.

    without: an ImageFolder whose images are left out.
    """

    name: str = "images"
    path: str = ""
    count: int = 16
    frames: int = 4
    seed: int = 0
    without: Any = None

    def __post_init__(self) -> None:
        _check_path(self.path)
        super().__post_init__()

    def inputs(self) -> list[Path]:
        """The images of all sequences."""
        return [path for window in self._windows() for path in window]

    def scenes(self) -> Iterator[Scene]:
        """Yields sequences in the order of the seed. Raises DataError where no image is left."""
        for window in self._windows():
            images, _, files, notes = self.preprocessed(window)
            yield Scene(_span(window), images, tuple(files), notes=tuple(notes))

    def _windows(self) -> list[Sequence[Path]]:
        everything = ImageFolder(self.name, self.path, **self.of_images)
        evaluated: ImageFolder | None = self.without
        paths = everything.split()[0] if evaluated is None else evaluated.split()[1]
        if not paths:
            raise DataError(
                f"calibration=dataset: every image of {self.path} is evaluated, so that none is left to calibrate on; set "
                f"dataset.max_images, or use calibration=images calibration.dataset.path=DIR"
            )
        return drawn(cut(paths, self.frames), self.count, self.seed)


def _span(paths: Sequence[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} to {paths[-1].name}"
