"""Finds and reads the camera file of a folder of photographs. A file is recognized by its name and content."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vggtq.data.cameras.camera import CameraList
from vggtq.data.cameras.colmap import read_model
from vggtq.data.cameras.json_files import read_json
from vggtq.data.cameras.text_files import (
    is_trajectory,
    read_mvsnet,
    read_pose_files,
    read_strecha,
    read_tum,
)
from vggtq.errors import DataError

# Below the folder of photographs, in the order in which they are looked for.
PLACES = (
    "cameras.json",
    "transforms.json",
    "sparse/0",
    "sparse",
    "colmap",
    ".",
    "images",
    "cams",
    "groundtruth.txt",
)

Reader = Callable[[Path], CameraList | None]


def find_cameras(folder: Path) -> Path | None:
    """The first of PLACES that holds cameras."""
    return next((folder / place for place in PLACES if _reader(folder / place)), None)


def read_cameras(path: Path) -> CameraList | None:
    """All cameras of a file or a folder; None for a JSON of some other program. Raises DataError."""
    reader = _reader(path)
    if reader is None and path.is_dir() and (found := find_cameras(path)):
        path, reader = found, _reader(found)
    if reader is None:
        what = (
            "no cameras in this folder"
            if path.is_dir()
            else "not a file of cameras"
            if path.exists()
            else "no such file"
        )
        raise DataError(
            f"dataset.cameras={path}: {what}; read are cameras.json, transforms.json, COLMAP models (text, binary), "
            "Strecha's .camera, pose files of 7-Scenes, TUM's groundtruth.txt, MVSNet's _cam.txt"
        )
    return reader(path)


def located(listed: CameraList, photographs: Sequence[Path]) -> CameraList:
    """Cameras whose files name images without saying where they are, each with its photograph.

    The whole of the name counts, folders included; the last part of it where only one photograph is called so.
    """
    if not listed.named:
        return listed
    found = [_photograph(camera.image, photographs) for camera in listed.cameras]
    cameras = [replace(c, image=path) for c, path in zip(listed.cameras, found, strict=True)]
    left = len(set(photographs) - set(found))
    notes = (f"{left} of {len(photographs)} photographs have no camera and were left out",) if left else ()
    return replace(listed, cameras=cameras, notes=(*listed.notes, *notes))


def _photograph(name: Path, photographs: Sequence[Path]) -> Path:
    whole = [path for path in photographs if path.parts[-len(name.parts) :] == name.parts]
    last = [path for path in photographs if path.name == name.name]
    return next((paths[0] for paths in (whole, last) if len(paths) == 1), name)


def _reader(path: Path) -> Reader | None:
    if path.is_dir():
        if any(
            all((path / f"{n}.{kind}").is_file() for n in ("cameras", "images")) for kind in ("bin", "txt")
        ):
            return read_model
        folders = (("*.camera", read_strecha), ("*.pose.txt", read_pose_files), ("*_cam.txt", read_mvsnet))
        return next((reader for pattern, reader in folders if any(path.glob(pattern))), None)
    if path.suffix == ".json" and path.is_file():
        return read_json
    return read_tum if path.suffix == ".txt" and path.is_file() and is_trajectory(path) else None
