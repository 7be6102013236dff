"""Small rooms in the layout of Neural RGB-D."""

from pathlib import Path

import numpy as np
from PIL import Image

from helpers.posed_photographs import Posed, as_stored, grey

SIZE = (56, 42)


def write_room(root: Path, name: str, frames: int) -> Posed:
    """Photographs of nothing at 2.5 metres, with none on the right half. The lens is that of focal.txt."""
    folder = root / name
    posed = grey(folder, frames, SIZE, names="images/img{}.png")
    levels = np.full((SIZE[1], SIZE[0]), 2500, np.uint16)
    levels[:, SIZE[0] // 2 :] = 0
    (folder / "depth").mkdir()
    for i in range(frames):
        Image.fromarray(levels).save(folder / "depth" / f"depth{i}.png")
    (folder / "focal.txt").write_text("50.0\n")
    write_poses(folder, as_stored(posed.poses, "opengl_c2w"))
    K = np.array([[50.0, 0, SIZE[0] / 2], [0, 50.0, SIZE[1] / 2], [0, 0, 1]])
    return Posed(folder, posed.names, posed.poses, K, SIZE)


def write_poses(folder: Path, poses: np.ndarray) -> None:
    np.savetxt(folder / "poses.txt", poses.reshape(-1, 4), "%.12e")
