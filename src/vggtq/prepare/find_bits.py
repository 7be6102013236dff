"""Bits per layer of a model that was loaded: sensitivities on the calibration samples, measured or cached, and their record.

The numbers come from `quant.bits.sensitivity`, the choice from `quant.bits.allocate`; this module prepares the
network, samples and run for both. Only calibration samples are looked at, never an evaluated scene.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.config.schema import Config
from vggtq.errors import QuantizationError
from vggtq.metrics.fidelity import align_quaternions
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.network.declared import common_outputs
from vggtq.network.outputs import NAMES
from vggtq.prepare.cache import SENSITIVITIES, cache_of
from vggtq.prepare.samples import Samples
from vggtq.quant.bits.allocate import MIB, Allocation, allocate
from vggtq.quant.bits.candidates import Candidates
from vggtq.quant.bits.sensitivity import Sensitivities, exact_errors, jacobian_errors
from vggtq.records.of_model import AllocationEntry, SensitivityEntry, SolverEntry
from vggtq.terminal.progress import Steps

log = logging.getLogger(__name__)


class OutputErrors:
    """‖q - r‖² / ‖r‖² of every output of a network over the samples, r: the outputs of the float model."""

    def __init__(self, model: LoadedModel, scenes: Sequence[Tensor]) -> None:
        self._model, self._scenes = model, scenes
        self._reference = [model.predict(images) for images in scenes]

    def __call__(self, network: nn.Module) -> dict[str, float]:
        noise = dict.fromkeys(self._reference[0], 0.0)
        power = dict(noise)
        for images, reference in zip(self._scenes, self._reference, strict=True):
            outputs = self._model.predict(images, network)
            if "pose_enc" in outputs:
                outputs["pose_enc"] = align_quaternions(outputs["pose_enc"], reference["pose_enc"])
            for name, exact in reference.items():
                noise[name] += float((outputs[name].double() - exact).square().sum())
                power[name] += float(exact.double().square().sum())
        return {name: noise[name] / power[name] for name in power}


def measured(
    config: Config, model: LoadedModel, samples: Samples, steps: Steps
) -> tuple[Sensitivities, bool]:
    """The sensitivities of every layer that config.scheme selects, at each of its candidates, and whether they were cached.

    Raises QuantizationError.
    """
    samples.select_(model.module)
    scenes = samples.images
    candidates = Candidates(model.module, config.scheme, calibrate=samples.inputs)
    cache = cache_of(SENSITIVITIES, config.cache, config.model, model)
    widths = sorted(config.scheme.mixed.candidates)
    rest = getattr(torch, config.rest)

    def compute() -> dict[str, Tensor]:
        choices = candidates.choices(widths)
        sizes = [[candidates.stored_bytes(packed, rest) for packed in row] for row in choices]
        if config.scheme.mixed.sensitivity == "exact":
            error_of = OutputErrors(model, scenes)
            twin = partial(share_parameters, model.module)
            errors = exact_errors(twin, candidates, choices, error_of, steps.at)
        else:
            runs = [partial(_with_graph, model.module, scenes, i) for i in range(len(scenes))]
            errors = jacobian_errors(candidates, choices, runs, steps.at)
        return {"bytes": torch.tensor(sizes)} | {f"error.{name}": error for name, error in errors.items()}

    tensors, cached = cache.get(_identity(config, samples), compute)
    sensitivities = Sensitivities(
        layers=[unit.names for unit in candidates.units],
        bits=widths,
        weights=torch.tensor([unit.numel for unit in candidates.units]),
        bytes=tensors.pop("bytes"),
        other_bytes=candidates.other_bytes(rest),
        errors={name: tensors[f"error.{name}"] for name in NAMES if f"error.{name}" in tensors},
    )
    samples.notes += cache.notes
    return sensitivities, cached


def _with_graph(module: nn.Module, scenes: Sequence[Tensor], index: int) -> dict[str, Tensor]:
    """The outputs of one of the samples (S, 3, H, W), for gradients."""
    outputs = module(scenes[index].to(next(iter(module.parameters())).device)[None])
    return common_outputs(module, outputs)


def _identity(config: Config, samples: Samples) -> dict[str, Any]:
    """Everything that sensitivities depend on beyond the network, the code and the machine; no budget."""
    recipe = asdict(config.scheme)
    for key in ("name", "mixed"):
        del recipe[key]
    del recipe["weights"]["bits"]
    return {
        "recipe": recipe,
        "candidates": sorted(config.scheme.mixed.candidates),
        "sensitivity": config.scheme.mixed.sensitivity,
        "rest": config.rest,
        "samples": samples.sha256,
    }


def find_bits(
    config: Config, model: LoadedModel, samples: Samples, steps: Steps
) -> tuple[Allocation, AllocationEntry]:
    """The allocation for config.scheme and its entry in the record. Raises QuantizationError."""
    sensitivities, cached = measured(config, model, samples, steps)
    allocation = allocate(config.scheme, sensitivities)
    widths = Counter(allocation.scheme.mixed.bits.values())
    mean = sum(allocation.predicted.values()) / len(allocation.predicted)
    shares = ", ".join(f"{bits} bits: {layers} layers" for bits, layers in sorted(widths.items()))
    sizes = f"{allocation.stored_bytes / MIB:.3f} of {allocation.budget_bytes / MIB:.3f} MiB"
    found = f"{allocation.scheme.mixed.mean_bits:.2f} on average ({shares}), {sizes}"
    log.info("bits    %s, predicted error %.3g, %s", found, mean, allocation.solution.status)
    scheme, mean_bits = config.scheme, allocation.scheme.mixed.mean_bits
    assert mean_bits is not None
    return allocation, AllocationEntry(
        budget_bytes=allocation.budget_bytes,
        budget_from="budget_mb" if scheme.mixed.budget_mb is not None else f"{scheme.weights.bits} bits",
        stored_bytes=allocation.stored_bytes,
        smallest_bytes=allocation.smallest_bytes,
        largest_bytes=allocation.largest_bytes,
        mean_bits=mean_bits,
        solver=SolverEntry(allocation.solution.status, allocation.solution.gap),
        predicted=allocation.predicted,
        predicted_mean_relative_error=mean,
        sensitivity=SensitivityEntry(
            method=scheme.mixed.sensitivity,
            cached=cached,
            bits=sensitivities.bits,
            layers=[" + ".join(names) for names in sensitivities.layers],
            relative_error=sensitivities.mean.sqrt().tolist(),
        ),
    )


def check_bytes(allocation: Allocation, stored_bytes: int) -> list[str]:
    """Notes on a model that was quantized accordingly. Raises QuantizationError if it exceeds the budget."""
    if stored_bytes > allocation.budget_bytes:
        raise QuantizationError(
            f"the model takes {stored_bytes} bytes, {stored_bytes - allocation.budget_bytes} beyond the budget: inputs of "
            f"later layers changed what rounding keeps; lower budget_mb a little"
        )
    if stored_bytes == allocation.stored_bytes:
        return []
    return [f"the model takes {stored_bytes} bytes, {allocation.stored_bytes} were foreseen"]
