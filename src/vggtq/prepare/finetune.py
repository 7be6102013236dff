"""Quantizing a loaded model by its recipe, fine-tuning included: what it depends on, where it is kept, what the record says."""

import logging
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from vggtq.config.schema import Config
from vggtq.errors import DataError
from vggtq.models.loading import LoadedModel
from vggtq.prepare.cache import TRAININGS, cache_of
from vggtq.prepare.samples import Samples
from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.trainer import Checkpoint, Progress
from vggtq.quant.scheme.parts import Finetune
from vggtq.quant.walk.quantize import Quantization, quantize_
from vggtq.records.of_model import FinetuneEntry
from vggtq.terminal.progress import Steps

log = logging.getLogger(__name__)


class Views:
    """Views of the calibration scenes to fine-tune on: frames in another order each time; a part is kept for validation.

    scenes: (S, 3, H, W) each. The last `validation` of them, or of the frames of a single one, are not trained on.

    validation: (1, S, 3, H, W) each.
    """

    def __init__(self, scenes: Sequence[Tensor], validation: float, seed: int) -> None:
        parts = list(scenes) if len(scenes) > 1 else [frame[None] for frame in scenes[0]]
        if len(parts) < 2:
            raise DataError(
                "fine-tuning needs images to train on and others to validate with, and there is one; "
                "use more, e.g. calibration.samples=64"
            )
        kept = min(len(parts) - 1, max(1, round(validation * len(parts))))
        training, rest = parts[:-kept], parts[-kept:]
        if len(scenes) == 1:
            training, rest = [torch.cat(training)], [torch.cat(rest)]
        self.training, self._seed = training, seed
        self.validation: list[Tensor] = [scene[None] for scene in rest]

    def batch(self, step: int, size: int) -> list[Tensor]:
        """`size` scenes, or all where there are fewer; each once before any comes again. Stacked where shapes agree."""
        size = min(size, len(self.training))
        epoch, place = divmod(step, len(self.training) // size)
        order = torch.randperm(len(self.training), generator=self._generator(2 * epoch))
        generator = self._generator(2 * step + 1)
        shapes: dict[torch.Size, list[Tensor]] = {}
        for index in order[place * size : (place + 1) * size].tolist():
            images = self.training[index]
            # Another first frame is another world frame: new targets from the same images.
            images = images[torch.randperm(len(images), generator=generator)]
            shapes.setdefault(images.shape, []).append(images)
        return [torch.stack(group) for group in shapes.values()]

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 2**31 + number)


def quantize_model_(
    twin: nn.Module, model: LoadedModel, config: Config, samples: Samples | None, steps: Steps
) -> tuple[Quantization, FinetuneEntry | None]:
    """Turns `twin` into the quantized network, by `quantize_` or `finetune_`. Returns the record's `finetune` as well."""
    scheme = config.scheme
    inputs, statistics = samples.prepare(config, model) if samples else (None, None)
    if not scheme.finetune.steps:
        return quantize_(twin, scheme, on_layer=steps.at, calibrate=inputs, cache=statistics), None
    assert samples is not None
    views = Views(samples.images, scheme.finetune.validation, config.seed)
    # What the result depends on beyond the network, the code and the machine.
    recipe = {key: value for key, value in asdict(scheme).items() if key != "name"}
    identity = {"scheme": recipe, "images": samples.sha256, "seed": config.seed}
    checkpoint = Checkpoint(cache_of(TRAININGS, config.cache, config.model, model), identity)
    report = Reporter(scheme.finetune, steps)
    quantization, progress = finetune_(
        twin,
        model.module,
        scheme,
        views,
        calibrate=inputs,
        cache=statistics,
        checkpoint=checkpoint,
        on_layer=steps.at,
        on_step=report,
    )
    if not report.called:
        log.info("fine-tuned before: the weights come from %s", checkpoint.path)
    return quantization, describe_finetune(progress, views, scheme.finetune, cached=not report.called)


def describe_finetune(progress: Progress, views: Views, settings: Finetune, cached: bool) -> FinetuneEntry:
    """The record's `finetune`. cached: all of it was done by an earlier run."""
    return FinetuneEntry(
        **asdict(progress),
        planned_steps=settings.steps,
        scenes=len(views.training),
        validation_scenes=len(views.validation),
        cached=cached,
    )


class Reporter:
    """Tells where a fine-tuning is: on a terminal after every step, in the log after every evaluation."""

    def __init__(self, settings: Finetune, steps: Steps) -> None:
        self._settings, self._steps = settings, steps
        self._first: tuple[int, float] | None = None  # step and seconds of this sitting's first report
        self.called = False

    def __call__(self, progress: Progress) -> None:
        self.called = True
        total = self._settings.steps
        self._first = self._first or (progress.step, progress.seconds)
        error = progress.errors[-1][1]
        text = f"fine-tuning: loss {progress.losses[-1]:.5f}, error on validation {error:.5f}, {self._left(progress)} left"
        self._steps.tell(text)
        self._steps.at(progress.step, total)
        if progress.ended:
            log.info("fine-tuning ended after step %d: %s", progress.step, progress.ended)
            change = f"{progress.errors[0][1]:.5f} → {progress.best_error:.5f}"
            log.info("error on validation %s (step %d)", change, progress.best_step)
        elif progress.errors[-1][0] == progress.step:
            log.info("step %d of %d, %s", progress.step, total, text)

    def _left(self, progress: Progress) -> str:
        assert self._first is not None
        done = progress.step - self._first[0]
        if not done:
            return "?"
        seconds = (self._settings.steps - progress.step) * (progress.seconds - self._first[1]) / done
        seconds = min(seconds, max(0.0, 60 * self._settings.minutes - progress.seconds))
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
