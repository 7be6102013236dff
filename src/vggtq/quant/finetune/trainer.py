"""The loop: batch, both networks, loss, step, average of the weights, now and then a look at the validation part.

Everything that a step depends on is in the state or follows from the number of the step, so that a training which was stopped
goes on from its last checkpoint to the same end. Kept are the averaged weights (Polyak and Juditsky 1992) of the evaluation
with the smallest error, the one before the first step included: fine-tuning never ends worse than it began, on that part.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vggtq.files.cache import TensorCache
from vggtq.quant.finetune.layers import LearnedBranch, LearnedLinear, LearnedWeight
from vggtq.quant.finetune.losses import Disagreement
from vggtq.quant.scheme.parts import Finetune

log = logging.getLogger(__name__)

BETAS = (0.9, 0.99)
SMALLEST_RMS = 1e-3  # of a parameter, so that zeros can learn
WARMUP = 20  # steps in which rates rise
CLIP_NORM = 1.0  # of all gradients together
EMA_DECAY = 0.98  # of the average of the weights, which is kept
SAVE_EVERY_S = 60.0
ADAM = ("step", "exp_avg", "exp_avg_sq")


class Data(Protocol):
    """The data that a network is fine-tuned on: inputs alone, no labels."""

    @property
    def validation(self) -> Sequence[Tensor]:
        """The inputs that the error is measured on, never trained on."""
        ...

    def batch(self, step: int, size: int) -> list[Tensor]:
        """The inputs of one step, always the same for one step; several tensors where shapes differ."""
        ...


@dataclass
class Progress:
    """The course of the training so far. losses: one per step; errors: [step, error] of the averaged weights on
    the validation part.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)
    best_step: int = 0
    best_error: float = math.inf
    ended: str = ""  # why; empty while it goes on
    resumed: int = 0  # how often it was taken up from a checkpoint


class Trainer:
    """A training of `student`, whose layers learn already, towards the outputs of `teacher`."""

    def __init__(self, student: nn.Module, teacher: nn.Module, data: Data, settings: Finetune) -> None:
        self.student, self.data, self.settings = student, data, settings
        self.learned = learned_parameters(student, settings)
        self.average = {name: p.detach().clone() for name, p in self.learned.items()}
        self.best = {name: value.clone() for name, value in self.average.items()}
        self.optimizer = optimizer_for(student, self.learned, settings)
        self.disagreement = Disagreement(student, teacher)
        self.progress = Progress()

    def run(self, on_step: Callable[[Progress], None], save: Callable[[], None]) -> None:
        """Trains to the end. `save` is called every SAVE_EVERY_S seconds, and at the end."""
        progress = self.progress
        if progress.ended:
            return
        before, started = progress.seconds, time.monotonic()
        saved = started
        if not progress.errors:
            self._evaluate()
        while not progress.ended:
            self._train_step()
            progress.seconds = before + time.monotonic() - started
            progress.ended = self._ended()
            if progress.step % self.settings.evaluate_every == 0 or progress.ended:
                self._evaluate()
                progress.ended = progress.ended or self._stalled()
            if progress.ended or time.monotonic() - saved >= SAVE_EVERY_S:
                save()
                saved = time.monotonic()
            on_step(progress)

    def settle(self) -> None:
        """Puts the best weights into the student, for good."""
        for name, parameter in self.learned.items():
            parameter.data = self.best[name]
        self.student.requires_grad_(False)

    def _ended(self) -> str:
        if self.progress.step >= self.settings.steps:
            return "all steps are done"
        if self.progress.seconds >= 60 * self.settings.minutes:
            return f"{self.settings.minutes:g} minutes were over"
        return ""

    def _stalled(self) -> str:
        late = self.progress.step - self.progress.best_step
        waits = late >= self.settings.patience * self.settings.evaluate_every
        return f"{self.settings.patience} evaluations were no better" if waits else ""

    def _train_step(self) -> None:
        step = self.progress.step
        rate = share_of_rate(self.progress, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["full_rate"]
        self.optimizer.zero_grad()
        batches = self.data.batch(step, self.settings.batch)
        count, total = sum(len(inputs) for inputs in batches), 0.0
        for inputs in batches:
            loss = self.disagreement.loss(inputs) * (len(inputs) / count)
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(list(self.learned.values()), CLIP_NORM)
        if norm.isfinite():
            self.optimizer.step()
            self._update_average()
        else:
            log.warning("fine-tuning: gradients of step %d are not finite, skipped", step)
        self.progress.step += 1
        self.progress.losses.append(total)

    @torch.no_grad()
    def _update_average(self) -> None:
        # The first steps leave the start faster than the decay would.
        decay = min(EMA_DECAY, (1 + self.progress.step) / (10 + self.progress.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.learned.values()), 1 - decay)

    def _evaluate(self) -> None:
        self._swap()
        error = self.disagreement.error(self.data.validation)
        self._swap()
        progress = self.progress
        progress.errors.append([progress.step, error])
        if error < progress.best_error:
            progress.best_error, progress.best_step = error, progress.step
            self.best = {name: value.clone() for name, value in self.average.items()}

    def _swap(self) -> None:
        """Exchanges the weights of the student and their average."""
        for name, parameter in self.learned.items():
            parameter.data, self.average[name] = self.average[name], parameter.data

    def state(self) -> dict[str, Tensor]:
        """The tensors of the training without its progress; once it has ended, only its result."""
        state = {f"best.{name}": value for name, value in self.best.items()}
        if self.progress.ended:
            return state
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.learned.items():
            state[f"learned.{name}"] = parameter.detach()
            state |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return state

    def load_state(self, progress: Progress, state: dict[str, Tensor]) -> None:
        """Continues from `progress` and the tensors of `state`. Raises KeyError for those of another network."""
        device = next(iter(self.average.values())).device
        self.best = {name: state[f"best.{name}"].clone().to(device) for name in self.learned}
        self.progress = progress
        if progress.ended:
            return
        progress.resumed += 1
        self.average = {name: state[f"average.{name}"].clone().to(device) for name in self.learned}
        for name, parameter in self.learned.items():
            parameter.data = state[f"learned.{name}"].clone().to(device)
            moments = {k: state[f"adam.{k}.{name}"] for k in ADAM if f"adam.{k}.{name}" in state}
            if moments:
                self.optimizer.state[parameter] = {k: v.clone().to(device) for k, v in moments.items()}


class Checkpoint:
    """A training in a cache of tensors, so that one which was stopped goes on, and one which has ended is not done again.

    cache: one without a folder keeps nothing. identity: everything that the training depends on, except the
    part that the cache knows.
    """

    def __init__(self, cache: TensorCache, identity: Mapping[str, Any]) -> None:
        self._cache, self._entry = cache, cache.entry(identity)

    @property
    def path(self) -> Path | None:
        return self._entry.path

    @property
    def notes(self) -> list[str]:
        """Why nothing could be kept, for the record; that never stops a training."""
        return self._cache.notes

    def locked(self) -> AbstractContextManager[None]:
        """Waits until no other process trains the same."""
        return self._cache.locked(self._entry)

    def load_into_(self, trainer: Trainer) -> bool:
        """Takes a training up where the file left it; False where there is none that fits."""
        kept = self._cache.read(self._entry)
        if kept is None:
            return False
        tensors, header = kept
        try:
            progress = Progress(**json.loads(header["progress"]))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a checkpoint is not used (%s); starting anew", error)
            return False
        trainer.load_state(progress, tensors)
        return True

    def save(self, trainer: Trainer) -> None:
        """Writes the training; of one that has ended only the result."""
        progress = json.dumps(asdict(trainer.progress))
        self._cache.write(self._entry, trainer.state(), {"progress": progress})


def learned_parameters(student: nn.Module, settings: Finetune) -> dict[str, nn.Parameter]:
    """The parameters to train, by name: rounded weights, their steps, low-rank branches, all vectors; not those
    whose rate is 0.

    Nothing else requires gradients. Vectors are biases, gains, tokens. Matrices and kernels of layers that stay
    in float are as good as they can be; their gradients would cost a seventh of a step.
    """
    rates = _rates(student, settings)
    learned = {}
    for name, parameter in student.named_parameters():
        vector = parameter.is_floating_point() and parameter.numel() == max(parameter.shape, default=1)
        parameter.requires_grad_(rates.get(id(parameter), settings.rest_learning_rate if vector else 0) > 0)
        if parameter.requires_grad:
            learned[name] = parameter
    return learned


def optimizer_for(
    student: nn.Module, learned: dict[str, nn.Parameter], settings: Finetune
) -> torch.optim.Optimizer:
    """Adam with a group per tensor: rates are relative, to the mean step size of a rounded weight, to the size of all else."""
    rates, steps = _rates(student, settings), {id(p) for p in _log_steps(student)}
    step_size = {id(w.latent): float(w.scale().detach().mean()) for w in _weights(student)}
    groups = []
    for p in learned.values():
        relative = rates.get(id(p), settings.rest_learning_rate)
        size = 1.0 if id(p) in steps else step_size.get(id(p)) or max(_rms(p), SMALLEST_RMS)
        groups.append({"params": [p], "full_rate": relative * size})
    return torch.optim.Adam(groups, lr=0.0, betas=BETAS, fused=True)


def _rates(student: nn.Module, settings: Finetune) -> dict[int, float]:
    """id(parameter) → its rate, for all but biases, gains and tokens."""
    rates = {id(w.latent): settings.learning_rate for w in _weights(student)}
    rates |= {id(p): settings.step_learning_rate for p in _log_steps(student)}
    for module in student.modules():
        if isinstance(module, LearnedBranch):
            rates |= {id(p): settings.branch_learning_rate for p in (module.down, module.up)}
    return rates


def _weights(student: nn.Module) -> list[LearnedWeight]:
    return [module for module in student.modules() if isinstance(module, LearnedWeight)]


def _log_steps(student: nn.Module) -> list[nn.Parameter]:
    """The learned step sizes of weights and of static activations."""
    layers = [module for module in student.modules() if isinstance(module, LearnedLinear)]
    return [w.log_step for w in _weights(student)] + [m.log_range for m in layers if m.log_range is not None]


def _rms(parameter: Tensor) -> float:
    return float(parameter.detach().square().mean().sqrt())


def share_of_rate(progress: Progress, settings: Finetune) -> float:
    """Share of the full rates: linear warm-up, half a cosine down to 0 at the last step or when time is up."""
    done = max(progress.step / settings.steps, progress.seconds / (60 * settings.minutes))
    warm = min(1.0, (progress.step + 1) / WARMUP)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
