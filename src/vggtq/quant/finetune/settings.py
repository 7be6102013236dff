"""What fine-tuning is told: `scheme.finetune`. Imports nothing heavy."""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError


@dataclass
class Finetune:
    """Fine-tuning of the rounded network until it computes what the float one computes; steps=0: none.

    Learning rates are for Adam, whose steps are about as long as the rate: of weights in units of their layer's mean step
    size, of step sizes as a relative change, of biases, gains and tokens relative to their tensor's size (0 leaves them alone).
    """

    steps: int = 0
    batch: int = 4  # scenes per step
    learning_rate: float = 5e-4
    step_learning_rate: float = 5e-5
    rest_learning_rate: float = 5e-5
    warmup: int = 20  # steps in which the rates rise; then they fall by half a cosine
    clip_norm: float = 1.0
    ema_decay: float = 0.98  # of the average of the weights, which is what is kept
    outputs: dict[str, float] = field(
        default_factory=dict
    )  # weights of the loss; 1 for outputs that are not named
    features: list[str] = field(
        default_factory=list
    )  # patterns of modules whose outputs are to agree as well
    feature_weight: float = 1.0  # of their mean error, beside the outputs'
    validation: float = (
        0.125  # share of the calibration samples that is never trained on, but decides which weights are kept
    )
    evaluate_every: int = 50  # steps
    patience: int = 4  # evaluations without a better one, after which it ends
    minutes: float = (
        12.0  # after which it ends; where they come before the last step, the rates fall with the clock
    )
    save_every_s: float = 60.0

    def __post_init__(self) -> None:
        for key in ("steps", "warmup"):
            self._check(key, getattr(self, key) >= 0, "use 0 or more")
        for key in ("batch", "evaluate_every", "patience"):
            self._check(key, getattr(self, key) >= 1, "use at least 1")
        for key in ("learning_rate", "clip_norm", "minutes"):
            self._check(key, getattr(self, key) > 0, "use a positive number")
        for key in ("step_learning_rate", "rest_learning_rate", "feature_weight", "save_every_s"):
            self._check(key, getattr(self, key) >= 0, "use 0 or more")
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
