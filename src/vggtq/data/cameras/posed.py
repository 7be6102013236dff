"""From cameras of a file to a scene: photographs are checked, undistorted and preprocessed, with ground truth on their grid."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vggtq.data.cameras.camera import Array, Camera, CameraList, read_depth, world_to_camera
from vggtq.data.cameras.check import POOR_SHARE, check_cameras
from vggtq.data.cameras.lens import intrinsic_matrix
from vggtq.data.preprocess import FrameTransform, ImageOptions
from vggtq.data.scene import Array as Numbers
from vggtq.data.scene import CameraCheck, GroundTruth, ImageFile, Scene
from vggtq.data.select import count
from vggtq.errors import DataError


def posed_scene(
    name: str, root: Path, listed: CameraList, options: ImageOptions, check: bool, notes: Sequence[str] = ()
) -> Scene:
    """The photographs of a list, with its cameras and depth as ground truth. Raises DataError."""
    cameras, notes = listed.cameras, list(notes)
    _check_present(cameras, listed)
    checked = (
        check_cameras(name, listed)
        if check
        else CameraCheck(listed.convention, skipped="dataset.check_cameras=false")
    )
    bent = [camera.lens if camera.lens and camera.lens.distorts else None for camera in cameras]
    if any(bent):
        notes.append(
            f"{count(sum(map(bool, bent)), 'photograph')} undistorted, zoomed until no border is empty"
        )
    images, transforms, files, more = options.preprocessed(
        [camera.image for camera in cameras], [lens.undistort if lens else None for lens in bent]
    )
    _check_sizes(cameras, files, listed)
    poses = world_to_camera(np.stack([camera.pose for camera in cameras]), listed.convention)[:, :3]
    truth = GroundTruth.of(
        list(poses),
        _intrinsics(cameras, transforms),
        _depth(listed, transforms, (images.shape[-2], images.shape[-1]), notes),
        listed.metric,
    )
    described = (relative(file, c.image, root) for file, c in zip(files, cameras, strict=True))
    return Scene(name, images, tuple(described), truth, (*notes, *_said(checked), *more), checked)


def relative(file: ImageFile, path: Path, root: Path) -> ImageFile:
    """The entry of an image with its path below root, its name alone where it is elsewhere."""
    inside = path != root and path.is_relative_to(root)
    return dataclasses.replace(file, path=path.relative_to(root).as_posix() if inside else path.name)


def _check_present(cameras: Sequence[Camera], listed: CameraList) -> None:
    missing = [camera.image for camera in cameras if not camera.image.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{listed.files[-1]}: {len(missing)} of {count(len(cameras), 'listed image')} {verb} not there, first {missing[0]}"
        )


def _check_sizes(cameras: Sequence[Camera], files: Sequence[ImageFile], listed: CameraList) -> None:
    for camera, file in zip(cameras, files, strict=True):
        if camera.size not in (None, (file.width, file.height)):
            width, height = camera.size or (0, 0)
            raise DataError(
                f"{camera.image} is {file.width}x{file.height}, {listed.files[0].name} says {width}x{height}; "
                "use the images that the cameras belong to"
            )


def _intrinsics(cameras: Sequence[Camera], transforms: Sequence[FrameTransform]) -> list[Array] | None:
    matrices = []
    for camera, transform in zip(cameras, transforms, strict=True):
        if camera.lens is None:
            return None
        straight = camera.lens.straightened((transform.source_width, transform.source_height))
        matrices.append(transform.intrinsics(intrinsic_matrix(straight)))
    return matrices


def _depth(
    listed: CameraList, transforms: Sequence[FrameTransform], size: tuple[int, int], notes: list[str]
) -> Numbers | None:
    """(S, H, W); a map of a photograph that was undistorted does not fit any more and is left out."""
    if not any(camera.depth for camera in listed.cameras):
        return None
    depth = np.full((len(transforms), *size), np.nan, dtype=np.float32)
    for i, (camera, transform) in enumerate(zip(listed.cameras, transforms, strict=True)):
        if camera.depth and camera.lens and camera.lens.distorts:
            notes.append(f"{camera.depth.name}: depth of a distorted photograph is not used")
        elif camera.depth:
            try:
                depth[i] = transform.depth(read_depth(camera.depth, listed))
            except DataError as error:
                raise DataError(f"{camera.depth}: {error}") from error
    return depth


def _said(check: CameraCheck) -> list[str]:
    if check.median_px is None:
        return [f"cameras were not checked: {check.skipped}"]
    said = (
        f"cameras: median epipolar error {check.median_px:.2g} px over {check.matches} matches of {count(check.pairs, 'pair')} "
        f"at {check.longer_side} px, read as {check.convention}"
    )
    if check.median_px > POOR_SHARE * (check.longer_side or 0):
        said += (
            "; they do not fit the photographs under any convention: check their order, sizes and intrinsics"
        )
    return [said]
