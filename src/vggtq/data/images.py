"""Your own photographs: a folder of images, with cameras and depth where a cameras.json gives them."""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vggtq.data.cameras_json import Camera, CameraList, read_cameras_json
from vggtq.data.preprocess import FrameTransform, check_options, preprocess
from vggtq.data.scene import GroundTruth, ImageFile, Scene
from vggtq.data.select import check_selection, count, natural_key, select
from vggtq.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vggtq.data.sequences import ImageSequences

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
HEIC_SUFFIXES = (".heic", ".heif")
# where ETH3D and COLMAP put images below the folder that people name
PLACES = (".", "images", "dslr_images_undistorted", "images/dslr_images_undistorted")


@dataclass
class ImageFolder:
    """One scene from the images in `path`, in natural order (frame2 before frame10).

    Looked for in the folder itself, in the usual subfolders (`PLACES`), then in all subfolders together; the
    first place with an image counts, and the record says which it was. `path` may also be a single image.

    Taken: .jpg, .jpeg and .png in any letter case. One image is a scene of one frame. Images of different
    sizes are padded to the largest. The content must be JPEG or PNG whatever
    the name says. Skipped: hidden files and folders (macOS `._x.jpg` among them), and HEIC
    with a note, unless there is nothing else. A damaged or empty image is an error, never skipped.

    If `path` has a `cameras.json` (format: `vggtq.data.cameras_json`), its list of images and its order
    count, and poses, intrinsics and depth become ground truth; an image that is missing or has another size
    is an error.
    A cameras.json of another program is ignored with a note.
    """

    name: str = "images"
    path: str = ""
    image_size: int = 518
    mode: str = "crop"
    patch_size: int = 14
    max_images: int | None = None
    start: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("dataset.path is empty: name the folder with your images, dataset.path=DIR")
        check_options(self.mode, self.image_size, self.patch_size)
        check_selection(self.start, self.stride, self.max_images)

    def scenes(self) -> Iterator[Scene]:
        """Yields the one scene. Raises DataError for a path, image or camera file that cannot be used."""
        notes: list[str] = []
        root, listed, chosen = self._chosen(notes)
        for note in notes:
            log.info(note)
        if listed is not None:
            _check_present([path for path, _ in chosen], root)
        images, transforms, files, more = preprocess(
            [path for path, _ in chosen], self.mode, self.image_size, self.patch_size
        )
        files = [_relative(file, path, root) for file, (path, _) in zip(files, chosen, strict=True)]
        truth = GroundTruth()
        if listed is not None:
            cameras = [camera for _, camera in chosen if camera is not None]
            truth = _ground_truth(cameras, listed.metric, files, transforms, root, images.shape[-2:], notes)
        place = root.resolve()
        yield Scene(
            place.stem if root.is_file() else place.name, images, tuple(files), truth, (*notes, *more)
        )

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
        paths = [path for path, _ in _listed(root, _cameras_of(root, notes), notes)]
        taken = select(paths, self.start, self.stride, self.max_images, self.path)
        return taken, [path for path in paths if path not in set(taken)]

    def calibration(self, count: int, frames: int, seed: int) -> "ImageSequences":
        """Its images that are not evaluated, as sequences."""
        from vggtq.data.sequences import ImageSequences

        size: dict[str, Any] = {
            "image_size": self.image_size,
            "mode": self.mode,
            "patch_size": self.patch_size,
        }
        return ImageSequences(self.name, self.path, count, frames, seed, without=self, **size)

    def inputs(self) -> list[Path]:
        """The images, and where there are cameras their file and the depth maps."""
        root, listed, chosen = self._chosen([])
        depths = [root / camera.depth for _, camera in chosen if camera is not None and camera.depth]
        return [path for path, _ in chosen] + ([root / "cameras.json", *depths] if listed else [])

    def _chosen(self, notes: list[str]) -> tuple[Path, CameraList | None, list[tuple[Path, Camera | None]]]:
        """The folder, its list of cameras, and the selected images, each with its camera."""
        root = self.root()
        listed = _cameras_of(root, notes)
        found = _listed(root, listed, notes)
        return root, listed, select(found, self.start, self.stride, self.max_images, self.path)


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


def _cameras_of(root: Path, notes: list[str]) -> CameraList | None:
    path = root / "cameras.json"
    if root.is_file() or not path.is_file():
        return None
    listed = read_cameras_json(path)
    if listed is None:
        notes.append("cameras.json has no list of images in the documented format and was ignored")
    return listed


def _listed(root: Path, listed: CameraList | None, notes: list[str]) -> list[tuple[Path, Camera | None]]:
    if listed is not None:
        return [(root / camera.image, camera) for camera in listed.cameras]
    paths = [root] if root.is_file() else find_images(root, notes)
    return [(path, None) for path in paths]


def _check_present(paths: list[Path], root: Path) -> None:
    missing = [p for p in paths if not p.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{root / 'cameras.json'}: {len(missing)} of {count(len(paths), 'listed image')} {verb} not there, "
            f"first {missing[0]}"
        )


def _relative(file: ImageFile, path: Path, root: Path) -> ImageFile:
    inside = path != root and path.is_relative_to(root)
    return dataclasses.replace(file, path=path.relative_to(root).as_posix() if inside else path.name)


def _ground_truth(
    cameras: list[Camera],
    metric: bool,
    files: list[ImageFile],
    transforms: list[FrameTransform],
    root: Path,
    size: tuple[int, ...],
    notes: list[str],
) -> GroundTruth:
    for camera, file in zip(cameras, files, strict=True):
        if (camera.width, camera.height) != (file.width, file.height):
            raise DataError(
                f"{root / camera.image} is {file.width}x{file.height}, "
                f"cameras.json says {camera.width}x{camera.height}"
            )
    depth = None
    if any(camera.depth for camera in cameras) and not metric:
        notes.append("depth in millimetres was ignored: the scale of the poses is not metric")
    elif any(camera.depth for camera in cameras):
        depth = np.full((len(cameras), *size), np.nan, dtype=np.float32)
        for i, (camera, transform) in enumerate(zip(cameras, transforms, strict=True)):
            if (source := camera.read_depth(root)) is not None:
                depth[i] = transform.depth(source)
    intrinsics = [t.intrinsics(c.intrinsics) for t, c in zip(transforms, cameras, strict=True)]
    return GroundTruth(
        extrinsics=torch.from_numpy(np.stack([camera.extrinsics for camera in cameras])),
        intrinsics=torch.stack([torch.as_tensor(K, dtype=torch.float64) for K in intrinsics]),
        depth=None if depth is None else torch.from_numpy(depth),
        metric=metric,
    )
