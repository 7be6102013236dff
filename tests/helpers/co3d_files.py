"""Small categories in CO3Dv2's files."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.posed_photographs import Posed, grey


def co3d_frame(posed: Posed, index: int, category: str, sequence: str, isotropic: bool) -> dict[str, Any]:
    """PyTorch3D's camera: points are rows, x left, y up, and the image goes from −1 to 1."""
    (w, h), K, pose = posed.size, posed.K, posed.poses[index]
    turned = np.diag([-1.0, -1, 1]) @ pose[:3, :3]
    scale = np.array([min(w, h)] * 2) / 2 if isotropic else np.array([w, h]) / 2
    return {
        "sequence_name": sequence,
        "frame_number": index,
        "image": {"path": posed.names[index], "size": [h, w]},
        "depth": None,
        "viewpoint": {
            "R": turned.T.tolist(),
            "T": (np.array([-1, -1, 1]) * pose[:3, 3]).tolist(),
            "focal_length": (np.array([K[0, 0], K[1, 1]]) / scale).tolist(),
            "principal_point": ((np.array([w, h]) / 2 - K[:2, 2] - 0.5) / scale).tolist(),
            **({"intrinsics_format": "ndc_isotropic"} if isotropic else {}),
        },
    }


def write_category(root: Path, category: str, isotropic: bool = True, images: int = 60) -> dict[str, Posed]:
    """Sequences: good and fine in both lists, bad of low quality, short of few images."""
    frames, sequences, listed = [], [], []
    made = {}
    for name, number, quality in (
        ("good", images, 0.9),
        ("fine", images, 0.8),
        ("bad", images, 0.2),
        ("short", 20, 0.9),
    ):
        posed = grey(root, number, names=f"{category}/{name}/images/frame{{:06d}}.jpg")
        made[name] = posed
        frames += [co3d_frame(posed, i, category, name, isotropic) for i in range(number)]
        sequences.append({"sequence_name": name, "viewpoint_quality_score": quality})
        # the last five images are in no list
        listed += [[name, i, posed.names[i]] for i in range(number - 5)]
    folder = root / category
    (folder / "set_lists").mkdir()
    for file, data in (("frame_annotations", frames), ("sequence_annotations", sequences)):
        (folder / f"{file}.jgz").write_bytes(gzip.compress(json.dumps(data).encode()))
    lists = {"train": listed[: images - 5], "test": listed[images - 5 :]}
    (folder / "set_lists/set_lists_fewview_dev.json").write_text(json.dumps(lists))
    return made
