"""Cameras in JSON, as `vggtq.data.cameras.json_files` reads them: vggtq's cameras.json and nerfstudio's transforms.json."""

import json
import os
from pathlib import Path
from typing import Any

from vggtq.files.atomic import write_text
from vggtq.predict.result import Prediction


def write_cameras_json(path: Path, prediction: Prediction) -> None:
    """vggtq's own format, with the network's own frame beside it.

    K belongs to the original image; `frame` has the network's image size and the K of its pixels.

    The scale of the poses is unknown, so that no depth in millimetres is listed.
    """
    _write(
        path, {"pose_scale": "unknown", "images": [_camera(prediction, i, path) for i in _frames(prediction)]}
    )


def write_transforms_json(path: Path, prediction: Prediction) -> None:
    """nerfstudio's format (https://docs.nerf.studio/quickstart/data_conventions.html), in pixels of the original images.

    Camera to world, cameras with OpenGL axes. The world is that of points.ply beside it, so that there is no
    `applied_transform`. The centre of the first pixel is at (0.5, 0.5), as in COLMAP. OPENCV is nerfstudio's name for a
    perspective camera; it has no distortion here.
    """
    poses = prediction.opengl_poses()
    frames = [
        _frame(prediction, i, path) | {"transform_matrix": poses[i].tolist()} for i in _frames(prediction)
    ]
    _write(path, {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames})


def _frames(prediction: Prediction) -> range:
    return range(len(prediction.inputs.names))


def _camera(prediction: Prediction, frame: int, path: Path) -> dict[str, Any]:
    height, width = prediction.inputs.size_hw
    return {
        "image": _image(prediction, frame, path),
        "width": prediction.inputs.files[frame].width,
        "height": prediction.inputs.files[frame].height,
        "K": prediction.source_intrinsics(frame).tolist(),
        "w2c": [*prediction.extrinsics[frame].tolist(), [0.0, 0.0, 0.0, 1.0]],
        "frame": {"width": width, "height": height, "K": prediction.intrinsics[frame].tolist()},
    }


def _frame(prediction: Prediction, frame: int, path: Path) -> dict[str, Any]:
    K = prediction.source_intrinsics(frame)
    return {
        "file_path": _image(prediction, frame, path),
        "w": prediction.inputs.files[frame].width,
        "h": prediction.inputs.files[frame].height,
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2] + 0.5),
        "cy": float(K[1, 2] + 0.5),
    }


def _image(prediction: Prediction, frame: int, path: Path) -> str:
    """The path of the image, relative to the folder of `path`."""
    image = prediction.inputs.root / prediction.inputs.names[frame]
    return Path(os.path.relpath(image, path.parent.resolve())).as_posix()


def _write(path: Path, data: dict[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
