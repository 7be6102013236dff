"""What fine-tuning is told: `scheme.finetune`. Imports nothing heavy."""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError

RATES = ("learning_rate", "step_learning_rate", "branch_learning_rate", "rest_learning_rate")


@dataclass
class Finetune:
    """Fine-tuning of the rounded network until it computes what the float one computes; steps=0: none.

    Learning rates are for Adam, whose steps are about as long as the rate: of weights in units of their layer's mean step
    size, of step sizes as a relative change, of low-rank branches, biases, gains and tokens relative to their tensor's size.
    A rate of 0 leaves its part alone, which takes a fifth of the memory where it is that of the weights.
    They rise for `warmup` steps and then fall by half a cosine.

    outputs: weights of the loss, 1 for outputs that are not named. features: patterns of modules whose outputs are to agree as
    well, with the weight feature_weight for their mean error. ema_decay: of the average of the weights, which is what is kept.
    validation: share of the calibration samples that is never trained on, but decides which weights are kept; after `patience`
    evaluations without a better one it ends. minutes: it ends then, too; where they come before the last step, rates fall with
    the clock.
    """

    steps: int = 0
    batch: int = 4  # samples per step
    learning_rate: float = 5e-4
    step_learning_rate: float = 5e-5
    branch_learning_rate: float = 5e-4
    rest_learning_rate: float = 5e-5
    warmup: int = 20
    clip_norm: float = 1.0
    ema_decay: float = 0.98
    outputs: dict[str, float] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    feature_weight: float = 1.0
    validation: float = 0.2
    evaluate_every: int = 50  # steps
    patience: int = 4
    minutes: float = 12.0
    save_every_s: float = 60.0

    def __post_init__(self) -> None:
        for key in ("steps", "warmup"):
            self._check(key, getattr(self, key) >= 0, "use 0 or more")
        for key in ("batch", "evaluate_every", "patience"):
            self._check(key, getattr(self, key) >= 1, "use at least 1")
        for key in ("clip_norm", "minutes"):
            self._check(key, getattr(self, key) > 0, "use a positive number")
        for key in (*RATES, "feature_weight", "save_every_s"):
            self._check(key, getattr(self, key) >= 0, "use 0 or more")
        if not any(getattr(self, rate) for rate in RATES):
            raise ConfigError(
                f"scheme.finetune: {', '.join(RATES)} are all 0, so that nothing learns; raise one"
            )
        self._check(
            "ema_decay",
            0 <= self.ema_decay < 1,
            "it lies between 0 and 1, 1 excluded; 0 keeps the last weights",
        )
        self._check("validation", 0 < self.validation < 1, "use a share between 0 and 1; 0.2 is usual")
        for name, weight in self.outputs.items():
            if not weight >= 0:
                raise ConfigError(
                    f"scheme.finetune.outputs.{name}={weight}: a weight of the loss is 0 or more"
                )

    def _check(self, key: str, right: bool, remedy: str) -> None:
        if not right:
            raise ConfigError(f"scheme.finetune.{key}={getattr(self, key)}: {remedy}")
