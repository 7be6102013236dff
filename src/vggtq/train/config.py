"""Ingredients of a training and their change over time; conf/train.yaml has every number and its purpose."""

import math
from dataclasses import dataclass, field
from typing import Any

from vggtq.errors import ConfigError, check_choice

DATASETS = ("objects", "rooms")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass
class Weights:
    """Of the parts of the loss."""

    camera: float = 5.0
    rotation: float = 1.0
    translation: float = 1.0
    direction: float = 0.5
    matching: float = 2.0
    readout: float = 0.5
    depth: float = 1.0
    points: float = 1.0


@dataclass
class PoolConfig:
    """Rendered scenes that batches are drawn from; every step replaces some of the oldest."""

    scenes: int = 384
    first_scenes: int = 48
    views: int = 10
    renewed: float = 0.3
    antialiased: bool = True
    compiled: bool = False


@dataclass
class TrainConfig:
    """Raises ConfigError where values contradict each other."""

    architecture: dict[str, Any] = field(default_factory=dict)
    dataset: str = "objects"
    size: int = 84
    pool: PoolConfig = field(default_factory=PoolConfig)
    frames: list[int] = field(default_factory=lambda: [2, 3, 4, 4, 4, 4, 4, 6])
    frames_per_step: int = 32
    dense_frames: int = 6
    dense_from: float = 0.3
    dense_ramp_steps: int = 300
    brightness: float = 0.2
    steps: int = 20000
    budget_s: float = 0.0
    stop_at_s: float = 1e9
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 60
    decay_share: float = 0.45
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    weights: Weights = field(default_factory=Weights)
    matching_blocks: list[int] = field(default_factory=lambda: [0, 1])
    matching_heads: int = 2
    device: str = "cpu"
    precision: str = "auto"
    compiled: bool = False
    threads: int = 1
    seed: int = 0
    start: str | None = None
    log_every: int = 20
    evaluate_every: int = 200
    evaluation_scenes: int = 48
    save_every_s: float = 240.0
    folder: str = "outputs/train"
    export: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("dataset", DATASETS), ("precision", PRECISIONS)):
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "threads", "frames_per_step"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1")
        if not self.frames or min(self.frames) < 2 or max(self.frames) > self.pool.views:
            raise ConfigError(f"frames={self.frames}: give numbers from 2 to pool.views={self.pool.views}")
        if not 1 <= self.pool.first_scenes <= self.pool.scenes:
            raise ConfigError(
                f"pool.first_scenes={self.pool.first_scenes}: give 1 to pool.scenes={self.pool.scenes}"
            )


@dataclass(frozen=True)
class Progress:
    """The progress of a training."""

    step: int
    seconds: float  # of training, over all sittings

    def done(self, config: TrainConfig) -> float:
        """The share of the training that is over, 0 to 1."""
        return min(1.0, self.seconds / config.budget_s if config.budget_s else self.step / config.steps)


def learning_rate(progress: Progress, config: TrainConfig) -> float:
    """Linear warm-up, a plateau, then half a cosine down to the final rate."""
    warm = min(1.0, (progress.step + 1) / config.warmup_steps)
    falling = (progress.done(config) - (1 - config.decay_share)) / config.decay_share
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, falling))))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)
