"""Writes scene.glb: the coloured points and the cameras as binary glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0).

glTF has y up and z backward, a prediction y down and z forward: the node `world` turns by 180° about x, and all below it has
the coordinates of points.ply. Each image has a node points/NAME and a node cameras/NAME, the lines of a frustum; below it
stands view/NAME, a camera to look through. Vertex colours of glTF are linear, those of images sRGB.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggtq.files.atomic import replacing
from vggtq.predict.files.cloud import Cloud, Points
from vggtq.predict.result import Prediction

MOST_POINTS = 10_000_000  # 240 MB: browsers hold no much larger buffer
FLOAT, ARRAY_BUFFER, POINTS, LINES = 5126, 34962, 0, 1  # numbers of the specification
TURN = [1.0, 0.0, 0.0, 0.0]  # quaternion x, y, z, w: 180° about x
UNLIT = "KHR_materials_unlit"
POINT_MATERIAL, CAMERA_MATERIAL = 0, 1
WHITE, ORANGE = [1.0, 1.0, 1.0, 1.0], [1.0, 0.2, 0.0, 1.0]
EDGES = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1]  # of a frustum: 0 is the camera, 1 to 4 the corners


def write_glb(path: Path, prediction: Prediction, cloud: Cloud) -> None:
    """At most MOST_POINTS points, spread evenly, and every camera. The points are computed twice and never held at once."""
    text = _document(prediction, cloud)
    length = text["buffers"][0]["byteLength"]
    words = json.dumps(text, ensure_ascii=False).encode()
    words += b" " * (-len(words) % 4)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<4sII", b"glTF", 2, 28 + len(words) + length))
        stream.write(struct.pack("<I4s", len(words), b"JSON") + words)
        stream.write(struct.pack("<I4s", length, b"BIN\0"))
        for points in cloud.thinned(MOST_POINTS):
            stream.write(points.xyz.astype("<f4").tobytes() + linear(points.rgb).tobytes())
        for corners in _frusta(prediction):
            stream.write(corners.tobytes())


def linear(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """sRGB of 0 to 255 as linear light of 0 to 1 (IEC 61966-2-1)."""
    share = np.arange(256) / 255
    table = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return table.astype("<f4")[rgb]


def _document(prediction: Prediction, cloud: Cloud) -> dict[str, Any]:
    """All of the JSON part; buffers lie in the order in which they are added here."""
    tree = _Tree()
    names = prediction.inputs.stems
    points = [tree.points(names[p.frame], p) for p in cloud.thinned(MOST_POINTS) if len(p.xyz)]
    frames = enumerate(zip(prediction.opengl_poses(), _frusta(prediction), strict=True))
    cameras = [tree.camera(names[i], prediction, i, pose, corners) for i, (pose, corners) in frames]
    groups = [tree.group("points", points)] if points else []
    root = tree.group("world", [*groups, tree.group("cameras", cameras)], rotation=TURN)
    return {
        "asset": {"version": "2.0", "generator": "vggtq"},
        "extensionsUsed": [UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [root]}],
        "materials": [_unlit(WHITE), _unlit(ORANGE)],
        "buffers": [{"byteLength": tree.length}],
        **tree.lists,
    }


def _unlit(colour: list[float]) -> dict[str, Any]:
    """A material that shows colours as they are."""
    return {"extensions": {UNLIT: {}}, "pbrMetallicRoughness": {"baseColorFactor": colour}}


class _Tree:
    """Lists of the JSON part that refer to each other by index; `length` bytes of the binary part are taken."""

    def __init__(self) -> None:
        kinds = ("nodes", "meshes", "accessors", "bufferViews", "cameras")
        self.lists: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        self.length = 0

    def points(self, name: str, points: Points) -> int:
        """The node of one image's points."""
        primitive = {
            "attributes": {
                "POSITION": self._vectors(points.xyz.astype("<f4")),
                "COLOR_0": self._vectors(linear(points.rgb)),
            },
            "mode": POINTS,
            "material": POINT_MATERIAL,
        }
        return self._drawn(f"points/{name}", primitive)

    def camera(
        self,
        name: str,
        prediction: Prediction,
        frame: int,
        pose: NDArray[np.float64],
        corners: NDArray[np.float32],
    ) -> int:
        """The node of one camera. glTF's has no principal point: it looks through the centre of the image."""
        K, file = prediction.source_intrinsics(frame), prediction.inputs.files[frame]
        width, height = file.width / K[0, 0], file.height / K[1, 1]
        lens = {
            "yfov": float(2 * np.arctan(height / 2)),
            "aspectRatio": float(width / height),
            "znear": prediction.camera_size / 100,
        }
        primitive = {
            "attributes": {"POSITION": self._vectors(corners)},
            "mode": LINES,
            "material": CAMERA_MATERIAL,
        }
        view = self._add("cameras", {"type": "perspective", "perspective": lens})
        # a node of its own: readers take a node for a camera or for lines, seldom for both
        child = self._add("nodes", {"name": f"view/{name}", "camera": view})
        matrix = pose.T.ravel().tolist()  # column by column
        return self._drawn(f"cameras/{name}", primitive, children=[child], matrix=matrix)

    def group(self, name: str, children: list[int], **more: Any) -> int:
        """A node that holds others."""
        return self._add("nodes", {"name": name, "children": children, **more})

    def _drawn(self, name: str, primitive: dict[str, Any], **more: Any) -> int:
        mesh = self._add("meshes", {"name": name, "primitives": [primitive]})
        return self._add("nodes", {"name": name, "mesh": mesh, **more})

    def _vectors(self, values: NDArray[np.float32]) -> int:
        """An accessor of (n, 3) float32 that come next in the binary part."""
        place = {"byteOffset": self.length, "byteLength": values.nbytes}
        view = {"buffer": 0, "target": ARRAY_BUFFER, **place}
        self.length += values.nbytes
        accessor = {
            "bufferView": self._add("bufferViews", view),
            "componentType": FLOAT,
            "type": "VEC3",
            "count": len(values),
            "min": values.min(0).tolist(),
            "max": values.max(0).tolist(),
        }
        return self._add("accessors", accessor)

    def _add(self, kind: str, entry: dict[str, Any]) -> int:
        self.lists[kind].append(entry)
        return len(self.lists[kind]) - 1


def _frusta(prediction: Prediction) -> Iterator[NDArray[np.float32]]:
    """(16, 3) ends of the lines of each frustum, in the camera's own frame: x right, y up, z backward."""
    for frame, file in enumerate(prediction.inputs.files):
        K = prediction.source_intrinsics(frame)
        right, bottom = file.width - 0.5, file.height - 0.5  # pixel centres are at integers
        uv = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
        xy = (uv - K[:2, 2]) / K[[0, 1], [0, 1]]
        corners = np.stack([xy[:, 0], -xy[:, 1], -np.ones(4)], axis=-1) * prediction.camera_size
        yield np.concatenate([np.zeros((1, 3)), corners])[EDGES].astype("<f4")
