"""Bits per layer of a model that was loaded: sensitivities on the calibration samples, measured or cached, and their record.

The numbers come from `vggtq.quant.sensitivity`, the choice from `vggtq.quant.allocate`; here is what both need of a VGGT, its
samples and a run. Only calibration samples are looked at, never an evaluated scene.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.baseline import code_digest, numeric_machine
from vggtq.calibration_data import Samples
from vggtq.config import Config
from vggtq.errors import QuantizationError
from vggtq.metrics.fidelity import align_quaternions
from vggtq.models.loading import OUTPUTS, LoadedModel, share_parameters
from vggtq.progress import Steps
from vggtq.quant.allocate import MIB, Allocation, allocate
from vggtq.quant.candidates import Candidates
from vggtq.quant.scheme import Scheme
from vggtq.quant.sensitivity import Sensitivities, exact_errors, jacobian_errors
from vggtq.source_code import package_digest
from vggtq.tensor_cache import TensorCache

log = logging.getLogger(__name__)


@dataclass
class Measured:
    """Sensitivities, whether they were cached, and what went wrong with the cache."""

    sensitivities: Sensitivities
    cached: bool
    notes: list[str]


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
            outputs["pose_enc"] = align_quaternions(outputs["pose_enc"], reference["pose_enc"])
            for name, exact in reference.items():
                noise[name] += float((outputs[name].double() - exact).square().sum())
                power[name] += float(exact.double().square().sum())
        return {name: noise[name] / power[name] for name in power}


def measured(config: Config, model: LoadedModel, samples: Samples, steps: Steps) -> Measured:
    """The sensitivities of every layer that config.scheme selects, at each of its candidates. Raises QuantizationError."""
    samples.select_(model.module)
    scenes = samples.images
    candidates = Candidates(model.module, config.scheme, calibrate=samples.inputs)
    code = code_digest(model.module)
    folder = Path(config.sensitivity_cache) if config.sensitivity_cache and code else None
    cache = TensorCache(folder, "sensitivities")
    widths = sorted(config.scheme.mixed.candidates)
    rest = getattr(torch, config.rest)

    def compute() -> dict[str, Tensor]:
        choices = candidates.choices(widths)
        sizes = [[candidates.stored_bytes(packed, rest) for packed in row] for row in choices]
        if config.scheme.mixed.sensitivity == "exact":
            errors = OutputErrors(model, scenes)
            twin = partial(share_parameters, model.module)
            found = exact_errors(twin, candidates, choices, errors, steps.at)
        else:
            runs = [partial(_with_graph, model.module, scenes, i) for i in range(len(scenes))]
            found = jacobian_errors(candidates, choices, runs, steps.at)
        return {"bytes": torch.tensor(sizes)} | {f"error.{name}": error for name, error in found.items()}

    tensors, cached = cache.get(_identity(config, model, samples, code), compute)
    sensitivities = Sensitivities(
        layers=[unit.names for unit in candidates.units],
        bits=widths,
        weights=torch.tensor([unit.numel for unit in candidates.units]),
        bytes=tensors.pop("bytes"),
        other_bytes=candidates.other_bytes(rest),
        errors={name: tensors[f"error.{name}"] for name in OUTPUTS if f"error.{name}" in tensors},
    )
    return Measured(sensitivities, cached, cache.notes)


def _with_graph(module: nn.Module, scenes: Sequence[Tensor], index: int) -> dict[str, Tensor]:
    """The outputs of one of the samples (S, 3, H, W), for gradients."""
    outputs = module(scenes[index].to(next(iter(module.parameters())).device)[None])
    return {name: outputs[name] for name in OUTPUTS if name in outputs}


def _identity(config: Config, model: LoadedModel, samples: Samples, code: str | None) -> dict[str, Any]:
    """All that sensitivities depend on: network, samples, recipe, code, and the machine's arithmetic; no budget."""
    recipe = asdict(config.scheme)
    for key in ("name", "mixed"):
        del recipe[key]
    del recipe["weights"]["bits"]
    return {
        "what": "sensitivities",
        "fingerprint": model.weights.fingerprint,
        "settings": hashlib.sha256(repr(config.model).encode()).hexdigest(),
        "recipe": json.loads(json.dumps(recipe)),
        "candidates": sorted(config.scheme.mixed.candidates),
        "sensitivity": config.scheme.mixed.sensitivity,
        "rest": config.rest,
        "samples": samples.sha256,
        "code": [code, package_digest()],
        "machine": numeric_machine(next(iter(model.module.parameters())).device),
    }


def find_bits(
    config: Config, model: LoadedModel, samples: Samples, steps: Steps
) -> tuple[Allocation, dict[str, Any]]:
    """The allocation for config.scheme and what the record says of it. Raises QuantizationError."""
    found = measured(config, model, samples, steps)
    allocation = allocate(config.scheme, found.sensitivities)
    widths = Counter(allocation.scheme.mixed.bits.values())
    mean = sum(allocation.predicted.values()) / len(allocation.predicted)
    log.info(
        "bits    %.2f on average (%s), %.3f of %.3f MiB, predicted error %.3g, %s",
        allocation.scheme.mixed.mean_bits,
        ", ".join(f"{bits} bits: {layers} layers" for bits, layers in sorted(widths.items())),
        allocation.stored_bytes / MIB,
        allocation.budget_bytes / MIB,
        mean,
        allocation.solution.status,
    )
    return allocation, _described(config.scheme, allocation, found)


def _described(scheme: Scheme, allocation: Allocation, found: Measured) -> dict[str, Any]:
    """The record's `allocation`."""
    sensitivities = found.sensitivities
    return {
        "budget_bytes": allocation.budget_bytes,
        "budget_from": "budget_mb" if scheme.mixed.budget_mb is not None else f"{scheme.weights.bits} bits",
        "stored_bytes": allocation.stored_bytes,
        "smallest_bytes": allocation.smallest_bytes,
        "largest_bytes": allocation.largest_bytes,
        "mean_bits": allocation.scheme.mixed.mean_bits,
        "solver": {"status": allocation.solution.status, "gap": allocation.solution.gap},
        "predicted": allocation.predicted,
        "predicted_mean_relative_error": sum(allocation.predicted.values()) / len(allocation.predicted),
        "sensitivity": {
            "method": scheme.mixed.sensitivity,
            "cached": found.cached,
            "bits": sensitivities.bits,
            "layers": [" + ".join(names) for names in sensitivities.layers],
            "relative_error": sensitivities.mean.sqrt().tolist(),
        },
    }


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
