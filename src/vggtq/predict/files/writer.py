"""The files of a prediction, and the folder that they are written to."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggtq.errors import ConfigError
from vggtq.files.atomic import write_text
from vggtq.predict.files import maps
from vggtq.predict.files.cameras_json import write_cameras_json, write_transforms_json
from vggtq.predict.files.cloud import Cloud, write_ply
from vggtq.predict.files.colmap_text import FILES, write_colmap
from vggtq.predict.files.gltf import write_glb
from vggtq.predict.files.recording import write_rrd
from vggtq.predict.files.sheet import write_sheet
from vggtq.predict.options import Options
from vggtq.predict.per_frame import values
from vggtq.predict.result import Prediction
from vggtq.records.plain import plain
from vggtq.terminal.progress import Steps

INDEX = "prediction.json"
RECORDING = "scene.rrd"
WINDOWS = ".windows"  # a folder for what is predicted in windows, until all files are written


class OutputFolder:
    """Refuses what is not empty, unless it may overwrite; then an earlier prediction's own files are removed, no others.

    windows: an unfinished prediction in windows may lie there, too, to go on with. Raises ConfigError.
    """

    def __init__(self, path: Path, overwrite: bool, windows: bool = False) -> None:
        self.path, self._written = path, list[str]()
        unfinished = windows and (path / WINDOWS).is_dir() and not (path / INDEX).exists()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"out={path} is a file; name a folder")
        if path.is_dir() and any(path.iterdir()) and not (overwrite or unfinished):
            raise ConfigError(f"out={path} is not empty; name another folder, or overwrite=true")
        there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"out={path}: {there} cannot be written to; name another folder")

    def begin(self) -> None:
        """Makes room: without its index, what is there is no longer a prediction."""
        self.path.mkdir(parents=True, exist_ok=True)
        index = self.path / INDEX
        old = _listed(index)
        index.unlink(missing_ok=True)
        for name in old:
            (self.path / name).unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        """The path of a file to write, which the index will list."""
        self._written.append(name)
        return self.path / name

    def finish(self, report: dict[str, Any]) -> None:
        """Writes the index, with the size in bytes of each file. Windows are not needed after that."""
        files = {name: (self.path / name).stat().st_size for name in self._written}
        text = json.dumps(plain(report | {"files": files}), indent=1, allow_nan=False, ensure_ascii=False)
        write_text(self.path / INDEX, text + "\n")
        shutil.rmtree(self.path / WINDOWS, ignore_errors=True)


def _listed(index: Path) -> list[str]:
    """The files of an earlier prediction, as far as they lie in its folder."""
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = [name for name in names if isinstance(name, str) and not Path(name).is_absolute()]
    return [name for name in inside if ".." not in Path(name).parts and (index.parent / name).is_file()]


def write_all(
    folder: OutputFolder,
    predictions: Sequence[tuple[str, Prediction]],
    options: Options,
    steps: Steps,
) -> dict[str, Any]:
    """The files of OutputFolder, and what the index says of them: `depth`, `points`, `colmap`.

    predictions: with the title of their model; what is not the first is in scene.rrd alone.
    """
    caption, prediction = predictions[0]
    steps.step("writing", len(prediction.inputs.names) + 5)
    depth = _write_maps(folder, prediction, options.depth, steps)
    write_cameras_json(folder.file("cameras.json"), prediction)
    write_transforms_json(folder.file("transforms.json"), prediction)
    shown = [(title, Cloud(p, options.confidence, p.points is not None)) for title, p in predictions]
    cloud = shown[0][1]
    write_ply(folder.file("points.ply"), cloud)
    steps.advance()
    write_glb(folder.file("scene.glb"), prediction, cloud)
    steps.advance()
    for name in FILES:
        folder.file(f"colmap/{name}")
    thinned = write_colmap(folder.path / "colmap", prediction, cloud, options.colmap_points)
    steps.advance()
    write_sheet(folder.file("preview.png"), prediction, caption)
    steps.advance()
    if options.viewer != "none":
        write_rrd(folder.file(RECORDING), shown)
    steps.advance()
    points = {
        "source": "head" if cloud.head else "depth",
        "count": len(cloud),
        "of_pixels": cloud.candidates,
        "confidence_threshold": cloud.threshold,
    }
    return {"depth": depth, "points": points, "colmap": {"points": thinned}}


def _write_maps(folder: OutputFolder, prediction: Prediction, kind: str, steps: Steps) -> dict[str, Any]:
    limits = maps.colour_range(prediction.depth)
    scale = maps.png16_scale(prediction.depth) if kind == "png16" else None
    if scale is not None:
        maps.write_scale(folder.file("depth/scale.json"), scale)
    frames = zip(prediction.inputs.stems, prediction.depth, prediction.confidence, strict=True)
    for stem, depth, confidence in frames:
        if scale is None:
            maps.write_npy(folder.file(f"depth/{stem}.npy"), depth)
        else:
            maps.write_png16(folder.file(f"depth/{stem}.png"), depth, scale)
        maps.write_npy(folder.file(f"confidence/{stem}.npy"), confidence)
        rgb = maps.coloured(depth, limits, maps.DEPTH_COLOURS)
        maps.write_colours(folder.file(f"preview/{stem}.png"), rgb)
        steps.advance()
    finite = values(prediction.depth)
    return {
        "format": kind,
        "scale": scale,
        "median": float(np.median(finite, overwrite_input=True)) if finite.size else None,
        "preview_range": list(limits),
    }
