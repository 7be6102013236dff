"""The points of a scene that are compared, and the source of their normals; protocols differ in both. Imports
nothing heavy.
"""

from dataclasses import dataclass

from vggtq.errors import ConfigError, check_choice
from vggtq.terminal.options import option

CONFIDENT_SHARE = 0.8  # of a scene's pixels, the most confident ones of the FP32 model
MAX_POINTS = 20_000  # of a scene, on a regular grid
NORMALS = ("grid", "neighbours")


@dataclass
class Points:
    """The defaults are vggtq's own. Distances to the nearest point depend on how many there are: compare like with like."""

    share: float = option(
        "share of a scene's pixels that count, those of which the FP32 model is most confident; 1: all",
        CONFIDENT_SHARE,
    )
    most: int | None = option(
        "points of a scene that are compared, about, on a regular grid; null: all", MAX_POINTS, least=1
    )
    crop: int | None = option(
        "side of the square in the middle of each image that counts, pixels; null: the whole image",
        None,
        least=1,
    )
    normals: str = option(
        "of neighbouring pixels, or of the plane through the 30 nearest points of the scene",
        "grid",
        choices=NORMALS,
    )

    def __post_init__(self) -> None:
        check_choice("points.normals", self.normals, NORMALS)
        if not 0 < self.share <= 1:
            raise ConfigError(f"points.share={self.share}: use a share above 0, at most 1 for all pixels")
        for key, value, every in (("most", self.most, "all points"), ("crop", self.crop, "the whole image")):
            if value is not None and value < 1:
                raise ConfigError(f"points.{key}={value}: use at least 1, or null for {every}")
