"""Photographs whose cameras are known, and the files in which people have cameras."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from vggtq.data.rooms import Rooms

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Posed:
    """Photographs of one size. poses: (S, 4, 4) world to camera, OpenCV axes; K: (3, 3), centres of pixels at integers."""

    folder: Path
    names: list[str]
    poses: np.ndarray
    K: np.ndarray
    size: tuple[int, int]


def room(folder: Path, size: int, frames: int, seed: int = 0) -> Posed:
    """Rendered photographs of a room."""
    scene = next(iter(Rooms(count=1, frames=frames, size=[size, size], seed=seed).scenes()))
    assert scene.truth.extrinsics is not None and scene.truth.intrinsics is not None
    names = [f"{i}.png" for i in range(frames)]
    for name, image in zip(names, scene.images, strict=True):
        Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")).save(folder / name)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3] = scene.truth.extrinsics.numpy()
    return Posed(folder, names, poses, scene.truth.intrinsics[0].numpy(), (size, size))


def grey(folder: Path, frames: int = 3, size: tuple[int, int] = (56, 42), names: str = "{}.png") -> Posed:
    """Photographs of nothing, with cameras that are turned and moved at random."""
    rng = np.random.default_rng(0)
    files = [names.format(i) for i in range(frames)]
    for i, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * i, 80, 90)).save(folder / name)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.random(frames, rng).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(frames, 3))
    K = np.array([[50.0, 0, 27.25], [0, 51.0, 20.75], [0, 0, 1]])
    return Posed(folder, files, poses, K, size)


def as_stored(poses: np.ndarray, convention: str) -> np.ndarray:
    """World to camera with OpenCV axes, as a file of this convention has it."""
    camera = OPENGL @ poses if convention.startswith("opengl") else poses
    return np.linalg.inv(camera) if convention.endswith("c2w") else camera


def write_cameras_json(posed: Posed, convention: str = "opencv_w2c") -> Path:
    stored = as_stored(posed.poses, convention)
    images = [
        {
            "image": n,
            "width": posed.size[0],
            "height": posed.size[1],
            "K": posed.K.tolist(),
            "w2c": p.tolist(),
        }
        for n, p in zip(posed.names, stored, strict=True)
    ]
    path = posed.folder / "cameras.json"
    path.write_text(json.dumps({"pose_scale": "metric", "images": images}))
    return path


def write_transforms(posed: Posed, **keys: Any) -> Path:
    stored = as_stored(posed.poses, "opengl_c2w")
    frames = [
        {"file_path": f"./{n}", "transform_matrix": p.tolist()}
        for n, p in zip(posed.names, stored, strict=True)
    ]
    K, (w, h) = posed.K, posed.size
    common = {
        "w": w,
        "h": float(h),
        "fl_x": K[0, 0],
        "fl_y": K[1, 1],
        "cx": K[0, 2] + 0.5,
        "cy": K[1, 2] + 0.5,
    }
    path = posed.folder / "transforms.json"
    path.write_text(json.dumps({**common, **keys, "frames": frames[::-1]}))
    return path


def write_colmap_text(posed: Posed, folder: Path, camera: str | None = None) -> Path:
    folder.mkdir(parents=True)
    K, (w, h) = posed.K, posed.size
    camera = camera or f"PINHOLE {w} {h} {K[0, 0]} {K[1, 1]} {K[0, 2] + 0.5} {K[1, 2] + 0.5}"
    (folder / "cameras.txt").write_text(f"# comment\n3 {camera}\n")
    lines = []
    for i, (name, pose) in enumerate(zip(posed.names, posed.poses, strict=True)):
        x, y, z, w_ = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = (w_, x, y, z, *pose[:3, 3])
        lines += [f"{i} {' '.join(map(repr, map(float, numbers)))} 3 {name}", "1.5 2.5 -1"]
    (folder / "images.txt").write_text("\n".join(lines[::-1][::-1]) + "\n")
    return folder


def write_colmap_binary(posed: Posed, folder: Path) -> Path:
    """Written from the description of the format, https://colmap.github.io/format.html."""
    folder.mkdir(parents=True)
    K, (w, h) = posed.K, posed.size
    params = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 3, 1, w, h, *params))
    data = struct.pack("<Q", len(posed.names))
    for i, (name, pose) in enumerate(zip(posed.names, posed.poses, strict=True)):
        x, y, z, w_ = Rotation.from_matrix(pose[:3, :3]).as_quat()
        data += struct.pack("<i7di", i, w_, x, y, z, *pose[:3, 3], 3) + name.encode() + b"\0"
        data += struct.pack("<Qddq", 1, 1.5, 2.5, -1)
    (folder / "images.bin").write_bytes(data)
    return folder


def write_strecha(posed: Posed) -> Path:
    for name, pose in zip(posed.names, as_stored(posed.poses, "opencv_c2w"), strict=True):
        rows = [*posed.K, np.zeros(3), *pose[:3, :3], pose[:3, 3], posed.size]
        text = "\n".join(" ".join(map(str, row)) for row in rows)
        (posed.folder / f"{name}.camera").write_text(text + "\n")
    return posed.folder


def write_pose_files(posed: Posed) -> Path:
    for name, pose in zip(posed.names, as_stored(posed.poses, "opencv_c2w"), strict=True):
        np.savetxt(posed.folder / name.replace(".color.png", ".pose.txt"), pose, "%.12e", "\t ")
    return posed.folder


def write_tum(posed: Posed) -> Path:
    """Poses come at another rate than images, with a moment in between that has no image."""
    lines, index = ["# timestamp tx ty tz qx qy qz qw", "0.5 9 9 9 0 0 0 1"], ["# timestamp filename"]
    for i, (name, pose) in enumerate(zip(posed.names, as_stored(posed.poses, "opencv_c2w"), strict=True)):
        q = Rotation.from_matrix(pose[:3, :3]).as_quat()
        lines.append(f"{1305031102 + i}.0113 {' '.join(map(repr, map(float, (*pose[:3, 3], *q))))}")
        index.append(f"{1305031102 + i}.0013 {name}")
    (posed.folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    (posed.folder / "rgb.txt").write_text("\n".join([*index, "1305031999.0 later.png"]) + "\n")
    return posed.folder / "groundtruth.txt"


def write_mvsnet(posed: Posed, folder: Path) -> Path:
    """Translations in millimetres."""
    folder.mkdir(parents=True)
    for name, pose in zip(posed.names, posed.poses, strict=True):
        scaled = pose.copy()
        scaled[:3, 3] *= 1000
        matrices = [("extrinsic", scaled), ("intrinsic", posed.K)]
        blocks = ["\n".join([word, *(" ".join(map(str, row)) for row in m)]) for word, m in matrices]
        (folder / f"{Path(name).stem}_cam.txt").write_text("\n\n".join([*blocks, "425.0 2.5"]) + "\n")
    return folder
