"""The geometry that runs kept for the page (`vggtq.records.preview`): read, checked, and each array stored once."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggtq.report.rows.sources import Source

PAGE_BYTES = 25_000_000  # of the whole page
_KINDS = {
    "image": ("uint8", 4),
    "color": ("uint8", 2),
    "depth": ("uint16", 3),
    "points": ("uint16", 2),
    "cameras": ("float32", 2),
}


class _Blobs:
    """Arrays as base64 text; equal ones, such as the images of all runs, are kept once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.known: dict[bytes, int] = {}
        self.size = 0
        self.points = 0  # of one frame, at most

    def add(self, array: Any) -> int:
        content = array.tobytes()
        digest = hashlib.sha256(content).digest()
        if digest not in self.known:
            self.known[digest] = len(self.texts)
            self.texts.append(base64.b64encode(content).decode())
            self.size += len(self.texts[-1])
        return self.known[digest]


def geometry_of(sources: Sequence[Source], groups: Sequence[int], used: int) -> dict[str, Any]:
    """Scenes with the runs that saw them, until the page, `used` bytes without them, is as large as it may be."""
    blobs, scenes = _Blobs(), dict[tuple[Any, ...], dict[str, Any]]()
    problems, left_out = [], 0
    for row, (source, group) in enumerate(zip(sources, groups, strict=True)):
        if not source.preview:
            continue
        if used + blobs.size > PAGE_BYTES - 2_000_000:
            left_out += 1
            continue
        try:
            for seen, tensors in _read(source.path.parent / Path(source.preview).name):
                _enter(scenes, blobs, row, group, seen, tensors)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append({"row": row, "reason": " ".join(str(error).split()) or type(error).__name__})
    found = list(scenes.values())
    most = {"frames": max((scene["frames"] for scene in found), default=0), "points": blobs.points}
    return {"scenes": found, "blobs": blobs.texts, "problems": problems, "left_out": left_out} | most


def _enter(
    scenes: dict[tuple[Any, ...], dict[str, Any]],
    blobs: _Blobs,
    row: int,
    group: int,
    seen: dict[str, Any],
    tensors: dict[str, Any],
) -> None:
    image = blobs.add(tensors["image"])
    scene = scenes.setdefault(
        (group, seen["name"], image),
        {"group": group, "name": str(seen["name"]), "frames": len(tensors["image"]), "image": image}
        | {"size": list(tensors["image"].shape[1:3]), "runs": {}},
    )
    color = blobs.add(tensors["color"])
    blobs.points = max(blobs.points, -(-len(tensors["color"]) // len(tensors["image"])))
    sides = {
        side: {
            "depth": blobs.add(tensors[f"{side}.depth"]),
            "points": blobs.add(tensors[f"{side}.points"]),
            "color": color,
            "cameras": [
                [float(f"{value:.6g}") for value in camera] for camera in tensors[f"{side}.cameras"].tolist()
            ],
            "depth_range": _numbers(seen[side]["depth"]),
            "box": [_numbers(end) for end in seen[side]["points"]],
        }
        for side in ("quantized", "reference")
    }
    scene["runs"][row] = sides["quantized"]
    scene.setdefault("reference", sides["reference"])


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _read(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(what is said of it, its arrays) of each scene in a preview. ValueError, KeyError or OSError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            said = json.loads((file.metadata() or {})["scenes"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
    found = []
    for i, scene in enumerate(said):
        own = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{i}.")}
        _check(own, path.name)
        found.append((scene, own))
    return found


def _check(own: dict[str, Any], name: str) -> None:
    """Types and shapes that the page relies on."""
    for key, array in own.items():
        dtype, dimensions = _KINDS[key.rpartition(".")[2]]
        if str(array.dtype) != dtype or array.ndim != dimensions:
            raise ValueError(
                f"{name}: {key} is {array.dtype} with {array.ndim} dimensions, not {dtype} with {dimensions}"
            )
    frames, points = own["image"].shape[:3], own["color"].shape
    for side in ("reference", "quantized"):
        shapes = tuple(own[f"{side}.{key}"].shape for key in ("depth", "points", "cameras"))
        if shapes != (frames, points, (frames[0], 14)) or own["image"].shape[3:] != (3,) or points[1] != 3:
            raise ValueError(f"{name}: the arrays of {side} do not belong to the images: {shapes}")
