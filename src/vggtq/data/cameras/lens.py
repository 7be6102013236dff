"""Lenses: focal lengths, principal point and distortion; photographs are undistorted before a network sees them.

The distortion is the rational model of OpenCV, of which COLMAP's SIMPLE_RADIAL, RADIAL, OPENCV and FULL_OPENCV are
special cases (https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html). Fisheye lenses are not read: what they see does
not fit on the plane of a perspective image.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggtq.errors import DataError

Array = NDArray[np.float64]

MOST_ZOOM = 2.0  # beyond which less than a quarter of the photograph would be left


@dataclass(frozen=True)
class Lens:
    """Pixels of the photograph, pixel centres at integers; distortion: k1, k2, p1, p2, k3, k4, k5, k6."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    @property
    def distorts(self) -> bool:
        return any(self.distortion)

    def distorted(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Rays (x, y, 1) to those through whose pixels the photograph shows them."""
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *[0.0] * (8 - len(self.distortion)))
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )

    def source(self, straight: "Lens", u: Array, v: Array) -> tuple[Array, Array]:
        """Pixels of the undistorted image to those of the photograph."""
        x, y = self.distorted((u - straight.cx) / straight.fx, (v - straight.cy) / straight.fy)
        return x * self.fx + self.cx, y * self.fy + self.cy

    def straightened(self, size: tuple[int, int]) -> "Lens":
        """The lens of the undistorted image of the same size: the least zoom at which it has no empty border.

        Raises DataError where the distortion folds back within the image.
        """
        if not self.distorts:
            return self
        low, high = 1.0, MOST_ZOOM
        if not self._fills(size, high):
            raise DataError(
                f"distortion {self.distortion} does not hold over an image of {size[0]}x{size[1]}: check k1, k2, …, or "
                "undistort the photographs first (colmap image_undistorter)"
            )
        if self._fills(size, low):
            return self._zoomed(low)
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if self._fills(size, middle) else (middle, high)
        return self._zoomed(high)

    def undistort(self, image: Image.Image) -> Image.Image:
        """8-bit RGB of the photograph to that of the `straightened` lens, bilinear."""
        from skimage.transform import warp

        straight = self.straightened(image.size)
        moved = warp(
            np.asarray(image),
            lambda uv: np.stack(self.source(straight, uv[:, 0], uv[:, 1]), axis=1),
            order=1,
            mode="edge",
            preserve_range=True,
        )
        return Image.fromarray(np.rint(moved).astype(np.uint8))

    def _zoomed(self, zoom: float) -> "Lens":
        return replace(self, fx=self.fx * zoom, fy=self.fy * zoom, distortion=())

    def _fills(self, size: tuple[int, int], zoom: float) -> bool:
        """Whether the border of the undistorted image, and all between it and the centre, shows the photograph once."""
        width, height = size
        u, v = np.linspace(0, width - 1, 65), np.linspace(0, height - 1, 65)
        border_u = np.concatenate([u, u, np.zeros(65), np.full(65, width - 1)])
        border_v = np.concatenate([np.zeros(65), np.full(65, height - 1), v, v])
        straight, steps = self._zoomed(zoom), np.linspace(0, 1, 65)[:, None]
        x, y = self.distorted(
            steps * (border_u - self.cx) / straight.fx, steps * (border_v - self.cy) / straight.fy
        )
        grows = (np.diff(np.hypot(x, y), axis=0) > 0).all()
        column, row = x[-1] * self.fx + self.cx, y[-1] * self.fy + self.cy
        inside = (column > -0.5) & (column < width - 0.5) & (row > -0.5) & (row < height - 0.5)
        return bool(grows and inside.all())


def intrinsic_matrix(lens: Lens) -> Array:
    """(3, 3)."""
    return np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])
