"""Options that cut a sequence of images into windows. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from vggtq.errors import ConfigError, check_choice
from vggtq.terminal.options import option

ORDERS = ("given", "similar")
LEAST = 4  # images of a window
AUTO = "auto"


@dataclass
class Windows:
    """The windows that a sequence is cut into; by default it is not cut."""

    frames: int | Literal["auto"] | None = option(
        "images that the network sees together; windows overlap and are aligned to one world; auto: with budget_gb, as many as "
        "fit, all at once if they do; null: all images at once",
        None,
        least=LEAST,
    )
    overlap: int | None = option("images that a window shares with the next one; null: half of them", None)
    loops: int | None = option(
        "windows of images from two parts of the sequence that look alike, at most; null: as many as other windows",
        None,
    )
    order: str = option(
        "given: images follow each other as in a video; similar: each by the one that looks most like it",
        "given",
        choices=ORDERS,
    )

    def __post_init__(self) -> None:
        check_choice("windows.order", self.order, ORDERS)
        if isinstance(self.frames, int) and self.frames < LEAST:
            raise ConfigError(
                f"windows.frames={self.frames}: use at least {LEAST}, or null for all images at once"
            )
        if self.overlap is not None and self.overlap < 1:
            raise ConfigError(
                f"windows.overlap={self.overlap}: windows must share at least 1 image; use null for half"
            )
        if isinstance(self.frames, int) and self.overlap and self.overlap >= self.frames:
            raise ConfigError(
                f"windows.overlap={self.overlap}: a window has only {self.frames} images; use {self.frames - 1} at most"
            )
        given = [
            f"windows.{name}={value}" for name, value in vars(self).items() if value not in (None, "given")
        ]
        if self.frames is None and given:
            raise ConfigError(
                f"{given[0]} without windows.frames: name the images of a window, e.g. windows.frames=32"
            )
        if self.loops is not None and self.loops < 0:
            raise ConfigError(f"windows.loops={self.loops}: use 0 for none, or more")

    @property
    def shared(self) -> int:
        """Images that two windows share at least."""
        assert isinstance(self.frames, int)
        return self.overlap or self.frames // 2

    @property
    def fewest(self) -> int:
        """Images of the smallest window that the other options allow."""
        return max(LEAST, (self.overlap or 0) + 1)
