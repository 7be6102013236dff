"""COLMAP's text files: malformed lines are named, and names are read as they are written."""

import re
from pathlib import Path

import numpy as np
import pytest

from vggtq.data.cameras.colmap import ColmapCamera, read_cameras, read_images
from vggtq.errors import DataError


def test_projection_is_undefined_where_it_folds_back() -> None:
    camera = ColmapCamera(1, "THIN_PRISM_FISHEYE", 100, 100, (50.0, 50.0, 50.0, 50.0, -0.5, *[0.0] * 7))
    # d/dθ (θ − θ³/2) = 0 at θ = √(2/3)
    x = np.tan(np.sqrt(2 / 3) + np.array([-0.01, 0.01]))
    u, _ = camera.project(x, np.zeros(2))
    assert np.isfinite(u[0]) and np.isnan(u[1])
    centre = camera.project(np.zeros(1), np.zeros(1))
    assert [c.item() for c in centre] == [49.5, 49.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 PINHOLE 10 10 5 5 5", "takes 4 parameters"),
        ("1 PINHOLE 10 10 5 5 5 x", "'x'"),
        ("1 PINHOLE 10 10 5 5 5 nan", "not finite"),
        ("1 PINHOLE 10", "got 3 words"),
        ("1 CUBE 10 10 5 5 5 5 5", "CUBE is not supported"),
        ("a PINHOLE 10 10 5 5 5 5", "not an integer"),
        ("1 PINHOLE 0 10 5 5 5 5", "positive"),
        ("7 PINHOLE 10 10 5 5 5 5", "defined twice"),
    ],
)
def test_malformed_cameras_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text(f"# comment\n7 PINHOLE 10 10 5 5 5 5\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:3: ") + f".*{message}"):
        read_cameras(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 1 0 0 0 0 0 0 7", "got 9 words"),
        ("2 1 0 0 0 0 0 z 7 b.jpg", "'z'"),
        ("2 2 0 0 0 0 0 0 7 b.jpg", "quaternion of length 2"),
        ("2 1 0 0 0 0 0 0 8 b.jpg", "camera 8 is not in"),
        ("2 1 0 0 0 0 0 0 7 a.jpg", "listed twice"),
    ],
)
def test_malformed_images_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "images.txt"
    path.write_text(f"1 1 0 0 0 0 0 0 7 a.jpg\n\n{line}\n\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:3: ") + f".*{message}"):
        read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})


def test_stripped_point_lines_do_not_lose_images(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 7 a.jpg\n2 1 0 0 0 0 0 0 7 b.jpg\n")
    with pytest.raises(DataError, match=r"images\.txt:2: expected the POINTS2D line"):
        read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})


def test_names_with_spaces_and_no_last_line(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 7 my photo 1.jpg")
    assert list(read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})) == ["my photo 1.jpg"]
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="no image"):
        read_images(path, {})
