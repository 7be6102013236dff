"""Where pixels of photographs go, for tests of what uses it."""

from vggtq.data.fit import fit
from vggtq.data.preprocess import FrameTransform, check_options, frame_transform


def transform_of(
    width: int, height: int, mode: str = "crop", size: int = 518, patch: int = 14
) -> FrameTransform:
    """That of one photograph by itself."""
    check_options(mode, size, patch)
    return frame_transform(fit(width, height, mode, size, patch, (width, height)), width, height)
