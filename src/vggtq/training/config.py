"""What a training is made of: phases, weights of the loss, optimizer settings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Phase:
    """A stretch of training. spread: how far cameras are apart, from its start to its end."""

    steps: int
    sizes: list[int] = field(default_factory=lambda: [56])  # pixels, square; each batch draws one
    spread: list[float] = field(default_factory=lambda: [1.0, 1.0])
    only_matching: bool = False  # learns nothing but the attention of the first blocks, several times faster
    fresh: float = 0.5  # share of batches that are newly rendered
    max_frames: int = 6
    frames_per_step: int = 24  # over all scenes of a batch
    dense_frames: int = 12  # of these, for how many depth and points are learned; cameras are for all


@dataclass
class Weights:
    """Of the parts of the loss."""

    camera: float = 10.0
    direction: float = 0.5
    depth: float = 1.0
    points: float = 1.0
    reference: float = 0.5
    matching: float = 0.5
    readout: float = 0.5


@dataclass
class TrainConfig:
    architecture: dict[str, Any] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    weights: Weights = field(default_factory=Weights)
    learning_rate: float = 6e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 300
    decay_share: float = 0.5  # of all steps, the last ones, in which the rate falls
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    matching_blocks: list[int] = field(default_factory=lambda: [0, 1])  # global blocks
    matching_heads: int = 2  # of each
    bfloat16: bool = True  # for linears and convolutions
    compiled: bool = False  # transformer blocks by torch.compile; needs a C++ compiler
    start: str | None = None  # weights to begin with, as in model.source; null: random ones
    seed: int = 0
    threads: int = 1
    evaluate_every: int = 500
    save_every_s: float = 180.0
    stop_at_s: float = 1e9  # of this sitting
    budget_s: float = 0.0  # of all sittings; where set, the rate and the end go by the clock, not by steps
    folder: str = "outputs/train"
    export: str = ""


def learning_rate(step: int, seconds: float, config: TrainConfig) -> float:
    """Linear warm-up, a plateau, then half a cosine down to the final rate."""
    total = sum(phase.steps for phase in config.phases)
    done = seconds / config.budget_s if config.budget_s else step / total
    warm = min(1.0, (step + 1) / config.warmup_steps)
    falling = (done - (1 - config.decay_share)) / config.decay_share
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, falling))))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)


def schedule(config: TrainConfig) -> Iterator[tuple[Phase, float]]:
    """The phase and the spread of every step."""
    for phase in config.phases:
        low, high = phase.spread
        for i in range(phase.steps):
            yield phase, low + (high - low) * i / max(1, phase.steps - 1)
