"""ETH3D high-resolution multi-view scenes. The classes are looked up when they are asked for: the download needs no torch."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "ETH3D":
        from vggtq.data.eth3d.scenes import ETH3D

        return ETH3D
    if name == "ETH3DSets":
        from vggtq.data.eth3d.sets import ETH3DSets

        return ETH3DSets
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
