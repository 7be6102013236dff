"""Trajectories of long walks: all images at once, windows in a row, and windows with loops, against known cameras."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform
from torch import Tensor

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.objects import Objects
from vggtq.data.scene import Scene
from vggtq.files.atomic import write_text
from vggtq.geometry import decode_pose, unproject_depth
from vggtq.machine.environment import Environment
from vggtq.models.loading import LoadedModel
from vggtq.models.network import Network
from vggtq.predict.windows.align import View, align, centres
from vggtq.predict.windows.features import features
from vggtq.predict.windows.layout import Layout, cut
from vggtq.predict.windows.options import Windows
from vggtq.predict.windows.similarity import Similarity, umeyama
from vggtq.records.plain import plain
from vggtq.terminal.progress import Steps

WALKS = {200: 4, 1000: 2}  # images of a walk: how many walks; those of 1,000 images take most of an hour
SIZE = 84  # pixels, the embedded model's
CUTS = (Windows(16), Windows(32))
METHODS = {
    "all at once": "one pass over all images",
    "by one camera": "windows in a row, each placed by the camera of the first image that it shares with the one before",
    "by shared centres": "windows in a row, each placed by the centres of the cameras that it shares with the one before",
    "by shared points": "windows in a row, each placed by the points that it shares with the one before",
    "with loops": "the same, and a pose graph with loops: vggtq predict windows.frames=N",
}


def windows(device: torch.device, env: Environment, out: Path) -> None:
    """Measures, writes `windows.json` into `out`, prints a table."""
    rows: list[dict[str, Any]] = []
    model: LoadedModel = validated(compose(["model=vggt_mini"])).model.load(device)
    with Steps() as steps:
        for images, walks in WALKS.items():
            for seed in range(walks):
                for row in walk_rows(model, images, seed, CUTS):
                    rows.append(row)
                    steps.step(f"after walk {seed} of {images} images, {row['method']}")
    write_text(out / "windows.json", json.dumps(plain({"environment": env, "rows": rows}), indent=1))
    _print(rows)
    print(f"{out}/windows.json")


def walk_rows(
    model: LoadedModel, images: int, seed: int, cuts: Sequence[Windows]
) -> Iterator[dict[str, Any]]:
    """A row for each method and cut: errors of the trajectory after the best similarity, and seconds."""
    scene = next(Objects(count=1, frames=images, size=[SIZE, SIZE], seed=seed, camera_path="walk").scenes())
    begin = time.perf_counter()
    found = _view(model, scene.images).extrinsics
    about = {"images": images, "seed": seed}
    yield about | {"method": "all at once", "windows_frames": None} | errors(found, scene, begin)
    for how in cuts:
        yield from ({**about, "windows_frames": how.frames, **row} for row in _cut_rows(model, scene, how))


def _cut_rows(model: LoadedModel, scene: Scene, how: Windows) -> Iterator[dict[str, Any]]:
    network = model.module
    assert isinstance(network, Network)
    begin = time.perf_counter()
    device = next(network.parameters()).device
    layout = cut(how, len(scene.images), lambda: features(network, scene.images, device))
    views = [_view(model, scene.images[list(window)]) for window in layout.windows]
    spent = time.perf_counter() - begin
    worlds = {
        "by one camera": lambda: by_one_camera(layout, views),
        "by shared centres": lambda: by_centres(layout, views),
        "by shared points": lambda: align(layout, views.__getitem__, graph=False).worlds,
        "with loops": lambda: align(layout, views.__getitem__).worlds,
    }
    for method, place in worlds.items():
        started = time.perf_counter() - spent
        placed = place()
        cameras = [placed[w].cameras(views[w].extrinsics[p : p + 1])[0] for w, p in layout.owners()]
        counts = {"windows": layout.along, "loops": len(layout.windows) - layout.along}
        yield {"method": method} | counts | errors(np.stack(cameras), scene, started)


def by_one_camera(layout: Layout, views: Sequence[View]) -> list[Similarity]:
    """Rotation and translation of one camera that both windows have; the unit is taken for the same."""
    worlds = [Similarity.identity()]
    for number in range(1, layout.along):
        before, image = layout.windows[number - 1], layout.windows[number][0]
        here, there = views[number - 1].extrinsics[before.index(image)], views[number].extrinsics[0]
        turn = here[:, :3].T @ there[:, :3]
        worlds.append(worlds[-1] @ Similarity(1.0, turn, here[:, :3].T @ (there[:, 3] - here[:, 3])))
    return worlds


def by_centres(layout: Layout, views: Sequence[View]) -> list[Similarity]:
    """The similarity between the camera centres of shared images, window after window."""
    worlds = [Similarity.identity()]
    for number in range(1, layout.along):
        before, after = layout.windows[number - 1], layout.windows[number]
        shared = [image for image in before if image in set(after)]
        target = centres(views[number - 1].extrinsics[[before.index(image) for image in shared]])
        source = centres(views[number].extrinsics[[after.index(image) for image in shared]])
        worlds.append(worlds[-1] @ umeyama(source, target, np.ones(len(shared))))
    return worlds


def _view(model: LoadedModel, images: Tensor) -> View:
    outputs = model.predict(images)
    cameras = decode_pose(outputs["pose_enc"].double(), (images.shape[-2], images.shape[-1]))
    points = unproject_depth(outputs["depth"].double(), *cameras)
    return View(cameras[0].numpy(), points.numpy(), outputs["depth_conf"].numpy())


def errors(found: NDArray[np.float64], scene: Scene, begin: float) -> dict[str, float]:
    """Absolute trajectory error (RMSE, scene units; Sturm et al. 2012) and mean error of rotations, degrees.

    Both after the similarity that best maps the found centres onto the true ones.
    """
    seconds = time.perf_counter() - begin
    assert scene.truth.extrinsics is not None
    true = scene.truth.extrinsics.numpy()
    moved = SimilarityTransform.from_estimate(centres(found), centres(true))
    apart = np.linalg.norm(moved(centres(found)) - centres(true), axis=1)
    turn = moved.params[:3, :3] / np.cbrt(np.linalg.det(moved.params[:3, :3]))
    relative = found[:, :, :3] @ turn.T @ true[:, :, :3].mT
    cosines = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    degrees = np.degrees(np.arccos(cosines.clip(-1, 1)))
    return {
        "trajectory_error": float(np.sqrt((apart**2).mean())),
        "rotation_error_deg": float(degrees.mean()),
        "seconds": seconds,
    }


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="trajectories of procedural walks, embedded model in FP32", caption="means over walks"
    )
    for heading in ("images", "of a window", "method", "trajectory error", "rotation error (°)", "seconds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for key in dict.fromkeys((row["images"], row["windows_frames"], row["method"]) for row in rows):
        own = [row for row in rows if (row["images"], row["windows_frames"], row["method"]) == key]
        numbers = [
            float(np.mean([row[name] for row in own]))
            for name in ("trajectory_error", "rotation_error_deg", "seconds")
        ]
        error, degrees, seconds = numbers
        cells = [
            str(key[0]),
            str(key[1] or "–"),
            METHODS[key[2]],
            f"{error:.3f}",
            f"{degrees:.1f}",
            f"{seconds:.0f}",
        ]
        table.add_row(*cells)
    Console(width=150).print(table)
