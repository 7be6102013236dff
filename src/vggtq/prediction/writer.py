"""Writes all files of a prediction but its index."""

from typing import Any

import numpy as np

from vggtq.predict import Options
from vggtq.prediction import maps
from vggtq.prediction.cameras import write_cameras_json
from vggtq.prediction.cloud import Cloud, write_ply
from vggtq.prediction.colmap_text import FILES, write_colmap
from vggtq.prediction.folder import OutputFolder
from vggtq.prediction.result import Prediction
from vggtq.prediction.sheet import write_sheet
from vggtq.progress import Steps


def write_all(
    folder: OutputFolder, prediction: Prediction, options: Options, caption: str, steps: Steps
) -> dict[str, Any]:
    """The files of OutputFolder, and what the index says of them: `depth`, `points`, `colmap`."""
    steps.step("writing", len(prediction.inputs.names) + 3)
    depth = _write_maps(folder, prediction, options.depth, steps)
    write_cameras_json(folder.file("cameras.json"), prediction)
    cloud = Cloud(prediction, options.confidence, options.points == "head")
    write_ply(folder.file("points.ply"), cloud)
    steps.advance()
    for name in FILES:
        folder.file(f"colmap/{name}")
    thinned = write_colmap(folder.path / "colmap", prediction, cloud, options.colmap_points)
    steps.advance()
    write_sheet(folder.file("preview.png"), prediction, caption)
    steps.advance()
    points = {
        "source": options.points,
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
    finite = prediction.depth[np.isfinite(prediction.depth)]
    return {
        "format": kind,
        "scale": scale,
        "median": float(np.median(finite)) if finite.size else None,
        "preview_range": list(limits),
    }
