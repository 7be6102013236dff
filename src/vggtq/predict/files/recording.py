"""Writes scene.rrd, a recording for the viewer of rerun (https://rerun.io), and opens it there.

    world                        of two models world/model and world/compare
      points/NAME                the coloured points of an image
      cameras/NAME               its camera
      camera                     the camera of the image that the timeline `image` stands at, with
        image  depth  confidence
    world/difference             of two models: |depth of compare − depth of model|

Axes are OpenCV's. rerun is an extra, imported when it is needed.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggtq.engines.extras import required
from vggtq.files.atomic import replacing
from vggtq.geometry import invert_se3
from vggtq.predict.files.cloud import Cloud
from vggtq.predict.files.maps import CONFIDENCE_COLOURS, DEPTH_COLOURS, colour_range
from vggtq.predict.per_frame import Maps, PerFrame
from vggtq.predict.result import Prediction

log = logging.getLogger(__name__)

EXTRA = "viewer"
ONE, BOTH = ("world",), ("world/model", "world/compare")  # the last words are those of the options
DIFFERENCE = "world/difference"
STARTS_WITHIN_S = 5.0  # a viewer that cannot start has said so by then


def rerun() -> Any:
    """The package. Raises MissingExtraError."""
    return required("rerun", EXTRA)


def write_rrd(path: Path, shown: Sequence[tuple[str, Cloud]]) -> None:
    """Points and maps of one prediction, or of two of the same images, each with the title of its model."""
    roots = ONE if len(shown) == 1 else BOTH
    scenes = [_Scene(root, *scene) for root, scene in zip(roots, shown, strict=True)]
    stream = rerun().RecordingStream("vggtq")
    with replacing(path) as temporary:
        stream.save(temporary, default_blueprint=_blueprint(scenes))
        try:
            for scene in scenes:
                scene.log(stream)
            if len(scenes) > 1:
                _log_difference(stream, *(scene.cloud.prediction.depth for scene in scenes))
        finally:
            stream.disconnect()  # waits until all is written


def open_viewer(path: Path) -> None:
    """Shows a recording in a window that outlives this process. Where none can be opened, a note gives the
    remedy.
    """
    command = [sys.executable, "-m", "rerun", str(path)]
    none = subprocess.DEVNULL
    process = subprocess.Popen(command, start_new_session=True, stdin=none, stdout=none, stderr=none)
    try:
        failed = process.wait(STARTS_WITHIN_S) != 0
    except subprocess.TimeoutExpired:
        failed = False
    if failed:
        log.warning(
            "rerun's viewer did not start: is there a screen? Open the file where there is one: rerun %s, or "
            "https://rerun.io/viewer",
            path,
        )


@dataclass(frozen=True)
class _Scene:
    """The scene as one model sees it, below the entity `root`."""

    root: str
    title: str
    cloud: Cloud

    def log(self, stream: Any) -> None:
        rr, prediction = rerun(), self.cloud.prediction
        stream.log(self.root, rr.ViewCoordinates.RDF, static=True)
        for points in self.cloud.frames():
            stem = prediction.inputs.stems[points.frame]
            dots = rr.Points3D(points.xyz.astype(np.float32), colors=points.rgb)
            stream.log([*self.root.split("/"), "points", stem], dots, static=True)
        depths, confidences = colour_range(prediction.depth), colour_range(prediction.confidence)
        for frame, stem in enumerate(prediction.inputs.stems):
            camera = _camera(prediction, frame)
            stream.log([*self.root.split("/"), "cameras", stem], *camera, static=True)
            stream.set_time("image", sequence=frame)
            stream.log(f"{self.root}/camera", *camera)
            stream.log(f"{self.root}/camera/image", rr.Image(prediction.inputs.pixels(frame)))
            depth = _map(prediction.depth[frame], depths, DEPTH_COLOURS)
            stream.log(f"{self.root}/camera/depth", depth)
            confidence = _map(prediction.confidence[frame], confidences, CONFIDENCE_COLOURS)
            stream.log(f"{self.root}/camera/confidence", confidence)

    def name(self, of: str) -> str:
        """With the option of the model before it, where there are two."""
        return of if self.root in ONE else f"{self.root.rpartition('/')[2]}: {of}"

    def space(self) -> Any:
        """The points and cameras; maps would be points or planes there."""
        contents = ["$origin/**", "- $origin/camera/depth", "- $origin/camera/confidence"]
        return rerun().blueprint.Spatial3DView(
            origin=self.root, contents=contents, name=self.name(self.title)
        )

    def plane(self, kind: str) -> Any:
        """One map of the image that the timeline stands at."""
        origin = f"{self.root}/camera"
        contents = [f"$origin/{kind}"]
        return rerun().blueprint.Spatial2DView(origin=origin, contents=contents, name=self.name(kind))


def _camera(prediction: Prediction, frame: int) -> tuple[Any, Any]:
    """Pose and lens. rerun draws an image from 0 to its width, so that the centre of the first pixel is at 0.5."""
    rr, (height, width) = rerun(), prediction.inputs.size_hw
    pose = invert_se3(torch.from_numpy(prediction.extrinsics[frame])).numpy()
    K = prediction.intrinsics[frame] + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    lens = rr.Pinhole(
        image_from_camera=K,
        resolution=[width, height],
        camera_xyz=rr.ViewCoordinates.RDF,
        image_plane_distance=prediction.camera_size,
    )
    return rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]), lens


def _map(values: NDArray[np.float32], limits: tuple[float, float], colours: str) -> Any:
    """Values (H, W) under colours between limits; 0 where there is none, which rerun takes for no depth."""
    known = np.where(np.isfinite(values), values, 0).astype(np.float32)
    return rerun().DepthImage(known, meter=1.0, colormap=colours, depth_range=limits)


def _log_difference(stream: Any, first: Maps, second: Maps) -> None:
    difference = PerFrame(len(first), lambda frame: np.abs(second[frame] - first[frame]))
    limits = 0.0, colour_range(difference)[1]
    for frame, values in enumerate(difference):
        stream.set_time("image", sequence=frame)
        stream.log(DIFFERENCE, _map(values, limits, DEPTH_COLOURS))


def _blueprint(scenes: Sequence[_Scene]) -> Any:
    """Space beside the maps; of two models both spaces, and below them the image, both depths and their difference."""
    rrb = rerun().blueprint
    first = scenes[0]
    spaces = rrb.Horizontal(*(scene.space() for scene in scenes))
    if len(scenes) == 1:
        maps = rrb.Vertical(*(first.plane(kind) for kind in ("image", "depth", "confidence")))
        return rrb.Blueprint(rrb.Horizontal(spaces, maps, column_shares=[3, 1]), collapse_panels=True)
    depths = [scene.plane("depth") for scene in scenes]
    difference = rrb.Spatial2DView(origin=DIFFERENCE, name="difference of depth")
    maps = rrb.Horizontal(first.plane("image"), *depths, difference)
    return rrb.Blueprint(rrb.Vertical(spaces, maps, row_shares=[2, 1]), collapse_panels=True)
