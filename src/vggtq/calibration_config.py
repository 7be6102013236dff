"""What to calibrate on: the schema of `conf/calibration/*.yaml`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from vggtq.errors import ConfigError, did_you_mean

SELECTIONS = ("random", "diverse")
CANDIDATES_PER_SAMPLE = 4


@dataclass
class Calibration:
    """Images on which recipes look at the inputs of layers; never those that are evaluated.

    A sample is a sequence of `frames` images that the model sees together. selection: random, or diverse, which chooses the
    samples among `pool` candidates (null: four times as many) by what they look like to the model. dataset: where they come
    from; null: images of the evaluated data set's kind that are not evaluated.
    """

    name: str = "rooms"
    samples: int = 16
    frames: int = 4
    seed: int = 0
    selection: str = "random"
    pool: int | None = None
    dataset: Any = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"calibration.samples={self.samples}: at least 1 is needed; 16 is usual")
        if self.frames < 1:
            raise ConfigError(f"calibration.frames={self.frames}: a sample has at least 1 image; 4 is usual")
        if self.selection not in SELECTIONS:
            near = did_you_mean(self.selection, SELECTIONS)
            raise ConfigError(f"calibration.selection={self.selection} is not one of random, diverse{near}")
        if self.pool is not None and (self.selection == "random" or self.pool < self.samples):
            raise ConfigError(
                f"calibration.pool={self.pool} with calibration.selection={self.selection} calibration.samples={self.samples}: "
                f"candidates are for selection=diverse, at least as many as samples; use null for four times as many"
            )


def candidates(*, _root_: DictConfig) -> int:
    """How many samples are rendered or read, of which `calibration.samples` are used."""
    wanted = _root_.calibration
    samples, pool = int(wanted.samples), wanted.pool
    if wanted.selection == "random":
        return samples
    return CANDIDATES_PER_SAMPLE * samples if pool is None else int(pool)
