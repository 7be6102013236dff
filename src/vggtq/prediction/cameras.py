"""Writes `cameras.json` in the format that `vggtq.data.cameras_json` reads, with the network's own frame beside it."""

import json
import os
from pathlib import Path
from typing import Any

from vggtq.atomic import replacing
from vggtq.prediction.result import Prediction


def write_cameras_json(path: Path, prediction: Prediction) -> None:
    """K belongs to the original image; `frame` has the network's image size and the K of its pixels.

    The scale of the poses is unknown, so that no depth in millimetres is listed.
    """
    data = {
        "pose_scale": "unknown",
        "images": [_entry(prediction, i, path.parent) for i in range(len(prediction.inputs.names))],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _entry(prediction: Prediction, frame: int, folder: Path) -> dict[str, Any]:
    inputs = prediction.inputs
    height, width = inputs.size_hw
    image = inputs.root / inputs.names[frame]
    return {
        "image": Path(os.path.relpath(image, folder.resolve())).as_posix(),
        "width": inputs.files[frame].width,
        "height": inputs.files[frame].height,
        "K": prediction.source_intrinsics(frame).tolist(),
        "w2c": [*prediction.extrinsics[frame].tolist(), [0.0, 0.0, 0.0, 1.0]],
        "frame": {"width": width, "height": height, "K": prediction.intrinsics[frame].tolist()},
    }
