"""Quantizing a loaded model by its recipe, fine-tuning included: what it depends on, where it is kept, what the record says."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vggtq.baseline import code_digest, numeric_machine, package_digest
from vggtq.calibration_data import Samples
from vggtq.config import Config
from vggtq.finetune_data import Views
from vggtq.models.loading import LoadedModel
from vggtq.progress import Steps
from vggtq.quant.finetune.checkpoint import Checkpoint
from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.settings import Finetune
from vggtq.quant.finetune.trainer import Progress
from vggtq.quant.quantize import Quantization, quantize_

log = logging.getLogger(__name__)


def quantize_model_(
    twin: nn.Module,
    model: LoadedModel,
    config: Config,
    samples: Samples | None,
    steps: Steps,
    device: torch.device,
) -> tuple[Quantization, dict[str, Any] | None]:
    """Turns `twin` into the quantized network, by `quantize_` or `finetune_`. Returns the record's `finetune` as well."""
    scheme = config.scheme
    inputs, cache = samples.prepare(config, model) if samples else (None, None)
    if not scheme.finetune.steps:
        return quantize_(twin, scheme, on_layer=steps.at, calibrate=inputs, cache=cache), None
    assert samples is not None
    views = Views(samples.images, scheme.finetune.validation, config.seed)
    folder = Path(config.finetune_cache) if config.finetune_cache else None
    checkpoint = Checkpoint(folder, identity(model, config, samples, device))
    report = Reporter(scheme.finetune, steps)
    quantization, progress = finetune_(
        *(twin, model.module, scheme, views),
        calibrate=inputs,
        cache=cache,
        checkpoint=checkpoint,
        on_layer=steps.at,
        on_step=report,
    )
    if not report.called:
        log.info("fine-tuned before: the weights come from %s", checkpoint.path)
    return quantization, describe_finetune(progress, views, scheme.finetune, cached=not report.called)


def identity(model: LoadedModel, config: Config, samples: Samples, device: torch.device) -> dict[str, Any]:
    """Everything that the result of a fine-tuning depends on, as plain values."""
    return {
        "weights": model.weights.fingerprint,
        "scheme": asdict(config.scheme),
        "images": samples.sha256,
        "seed": config.seed,
        "network": code_digest(model.module),
        "package": package_digest(),
        "machine": numeric_machine(device),
    }


def describe_finetune(progress: Progress, views: Views, settings: Finetune, cached: bool) -> dict[str, Any]:
    """The record's `finetune`. cached: all of it was done by an earlier run."""
    return {
        **asdict(progress),
        "planned_steps": settings.steps,
        "scenes": len(views.training),
        "validation_scenes": len(views.validation),
        "cached": cached,
    }


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
            log.info(
                "error on validation %.5f → %.5f (step %d)",
                progress.errors[0][1],
                progress.best_error,
                progress.best_step,
            )
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
