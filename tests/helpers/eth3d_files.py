"""Small scenes in ETH3D's files."""

from pathlib import Path

import numpy as np
from PIL import Image

# fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1; strong enough to move pixels by several px
FISHEYE = (150.0, 152.0, 100.3, 70.2, 0.12, -0.05, 0.004, -0.006, 0.03, 0.01, 0.005, -0.004)
DISTORTED_SIZE = (200, 140)
PINHOLE = (140.0, 141.0, 104.5, 72.5)
PINHOLE_SIZE = (210, 147)
PLANE = np.array([0.3, -0.2, 1.0])  # PLANE · X = 4 in camera coordinates: slanted, 3 to 6 m away
OFFSET = 4.0


def distort(w: np.ndarray) -> np.ndarray:
    """The distortion as a polynomial in one complex number, independent of the code under test."""
    _, _, _, _, k1, k2, p1, p2, k3, k4, sx1, sy1 = FISHEYE
    q = np.abs(w) ** 2
    radial = w * (1 + k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4)
    p = complex(p2, p1)
    # p·q + 2·Re(w·conj(p))·w  =  (p2(q+2a²)+2p1ab) + i(p1(q+2b²)+2p2ab)
    return radial + p * q + 2 * (w * np.conj(p)).real * w + complex(sx1, sy1) * q


def rays_of_distorted_pixels() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the rays (x, y, 1) through the centres of all distorted pixels, by fixed-point iteration."""
    row, column = np.mgrid[: DISTORTED_SIZE[1], : DISTORTED_SIZE[0]]
    target = (column + 0.5 - FISHEYE[2]) / FISHEYE[0] + 1j * (row + 0.5 - FISHEYE[3]) / FISHEYE[1]
    w = target.copy()
    for _ in range(200):
        w = w - (distort(w) - target)
    assert np.abs(distort(w) - target).max() < 1e-12
    ray = w * np.tan(np.abs(w)) / np.abs(w)
    return ray.real, ray.imag


def plane_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return OFFSET / (PLANE[0] * x + PLANE[1] * y + PLANE[2])


def numbers(values: object) -> str:
    return " ".join(str(v) for v in values)  # type: ignore[attr-defined]


def write_scene(root: Path, images: str = "images/dslr_images_undistorted", count: int = 3) -> Path:
    """A courtyard of `count` frames, listed in another order than their names'."""
    folder = root / "courtyard"
    poses = ["# a comment", ""]
    originals = []
    depth = plane_depth(*rays_of_distorted_pixels()).astype("<f4")
    depth[60:80, 90:110] = np.inf
    for sub in (images, "ground_truth_depth/dslr_images", "masks_for_images/dslr_images"):
        (folder / sub).mkdir(parents=True)
    for i in reversed(range(count)):
        name = f"DSC_{i}.JPG"
        Image.new("RGB", PINHOLE_SIZE, (50 * i, 80, 90)).save(folder / images / name)
        (folder / "ground_truth_depth/dslr_images" / name).write_bytes(depth.tobytes())
        # a quarter turn about z
        pose = f"{i} 0.7071068 0 0 0.7071068 {i}.5 -1 2 7"
        poses += [f"{pose} dslr_images_undistorted/{name}", "" if i else "1.5 2.5 -1 3.5 4.5 17"]
        originals += [f"{pose} dslr_images/{name}", "10.0 20.0 -1"]
    mask = np.zeros(depth.shape, dtype=np.uint8)
    mask[:20] = 1
    mask[-20:] = 3
    Image.fromarray(mask).save(folder / "masks_for_images/dslr_images/DSC_1.png")
    write_calibration(
        folder / "dslr_calibration_undistorted", f"PINHOLE {numbers(PINHOLE_SIZE)} {numbers(PINHOLE)}", poses
    )
    distorted = f"THIN_PRISM_FISHEYE {numbers(DISTORTED_SIZE)} {numbers(FISHEYE)}"
    write_calibration(folder / "dslr_calibration_jpg", distorted, originals)
    return folder


def write_calibration(folder: Path, camera: str, images: list[str]) -> None:
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"# Camera list\n7 {camera}\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
