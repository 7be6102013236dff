"""A prediction of many images: the network runs on one window after the other, and its predictions become one."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from vggtq.artifact.read import QuantizedModel
from vggtq.geometry import unproject_depth
from vggtq.models.network import Network
from vggtq.predict.inputs import Inputs
from vggtq.predict.result import Prediction, PredictionError, as_prediction
from vggtq.predict.windows.align import Alignment, AlignmentError, View, align
from vggtq.predict.windows.features import features
from vggtq.predict.windows.layout import Layout, cut
from vggtq.predict.windows.options import Windows
from vggtq.terminal.progress import Steps


def predict_in_windows(
    loaded: QuantizedModel, inputs: Inputs, windows: Windows, head: bool, steps: Steps
) -> tuple[Prediction, dict[str, Any]]:
    """The prediction of all images in the world of the first, and what the index says of its windows.

    head: with the network's own points. Raises PredictionError, also where two windows cannot be aligned.
    """
    network = loaded.module
    assert isinstance(network, Network)
    steps.step("comparing images")
    device = next(network.parameters()).device
    layout = cut(windows, len(inputs.names), lambda: features(network, inputs.images, device))
    steps.step(f"predicting {len(layout.windows)} windows", len(layout.windows))
    seen = []
    for window in layout.windows:
        some = inputs.only(window)
        seen.append(as_prediction(some, loaded.predict(some.images), head))
        steps.advance()
    steps.step("aligning")
    try:
        alignment = align(layout, lambda number: view(seen[number]))
    except AlignmentError as error:
        raise PredictionError(
            f"{error} of {len(layout.windows)} share no usable points; use a larger windows.overlap, or windows.frames"
        ) from error
    described = asdict(windows) | {
        "overlap": windows.shared,
        "windows": layout.along,
        "loops": len(layout.windows) - layout.along,
    }
    return merged(inputs, layout, seen, alignment), described | alignment.described()


def view(prediction: Prediction) -> View:
    """Of one window, with points from depth, where the network has no other."""
    points, confidence = prediction.points, prediction.points_confidence
    if points is None or confidence is None:
        depth = torch.from_numpy(np.where(prediction.depth > 0, prediction.depth, np.nan)).double()
        cameras = torch.from_numpy(prediction.extrinsics), torch.from_numpy(prediction.intrinsics)
        return View(prediction.extrinsics, unproject_depth(depth, *cameras).numpy(), prediction.confidence)
    return View(prediction.extrinsics, points, confidence)


def merged(inputs: Inputs, layout: Layout, seen: Sequence[Prediction], alignment: Alignment) -> Prediction:
    """Every image as the window saw it in which it lies deepest; lengths in the unit of the first window."""
    cameras, lenses, depths, confidences = [], [], [], []
    points, points_confidences = [], []
    for number, place in layout.owners():
        world, window = alignment.worlds[number], seen[number]
        cameras.append(world.cameras(window.extrinsics[place : place + 1])[0])
        lenses.append(window.intrinsics[place])
        depths.append(window.depth[place] * np.float32(world.scale))
        confidences.append(window.confidence[place])
        if window.points is not None and window.points_confidence is not None:
            points.append(world.points(window.points[place]).astype(np.float32))
            points_confidences.append(window.points_confidence[place])
    whole = Prediction(inputs, np.stack(cameras), np.stack(lenses), np.stack(depths), np.stack(confidences))
    if points:
        whole = replace(whole, points=np.stack(points), points_confidence=np.stack(points_confidences))
    return replace(whole, intrinsics_fitted=seen[0].intrinsics_fitted)
