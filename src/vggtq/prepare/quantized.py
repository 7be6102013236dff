"""The one way from a validated configuration to a quantized network: runs, exports, benchmarks and sensitivities take it.

`use_device`, `check`, `load`, `allocate_`, `quantize`, in this order; `prepared` is the first three for commands that evaluate
no scenes. `quantize` allocates bits where `allocate_` was not called.
A recipe without data can also be applied to one weight at a time (`vggtq.prepare.streamed`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from vggtq import artifact
from vggtq.config.schema import Config
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError
from vggtq.machine.device import make_deterministic, resolve_device
from vggtq.machine.timing import Seconds, timed
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.network.bounded import check as check_memory
from vggtq.network.reduced import check_reduced
from vggtq.prepare.find_bits import check_bytes, find_bits
from vggtq.prepare.finetune import quantize_model_
from vggtq.prepare.samples import Samples
from vggtq.quant.bits.allocate import Allocation
from vggtq.quant.kernels.per_tensor import check_inputs
from vggtq.quant.walk.quantize import Quantization, fuse_
from vggtq.quant.walk.select import check_int8_attention, select_layers
from vggtq.quant.walk.stored import round_rest_, stored_bytes
from vggtq.records.of_model import AllocationEntry, CalibrationEntry, FinetuneEntry
from vggtq.terminal.progress import Steps


@dataclass
class Prepared:
    """The float network on its device. samples: what its recipe is calibrated on, None where it looks at no data.

    config: once bits per layer are found, its scheme has them. allocation, entry: how they were found, and the record's entry.
    """

    config: Config
    device: torch.device
    model: LoadedModel
    samples: Samples | None
    allocation: Allocation | None = None
    entry: AllocationEntry | None = None


@dataclass
class Quantized:
    """A quantized network. config: its scheme has the bits per layer that were found.

    finetune, calibration: the record's entries of these names.
    """

    config: Config
    module: nn.Module
    quantization: Quantization
    weights: WeightsInfo
    allocation: Allocation | None = None
    finetune: FinetuneEntry | None = None
    calibration: CalibrationEntry | None = None
    notes: list[str] = field(default_factory=list)

    def check_budget(self) -> None:
        """Raises QuantizationError if it takes more than the budget of bytes; notes where it takes other than foreseen."""
        if self.allocation:
            stored = stored_bytes(self.module, getattr(torch, self.config.rest))
            self.notes += check_bytes(self.allocation, stored)

    def save(self, path: Path) -> artifact.Saved:
        """Writes the artifact. Raises WeightsError."""
        config, identity = self.config, self.config.model.identity()
        return artifact.save(
            self.module, path, config.scheme, self.quantization, self.weights, identity, config.rest
        )


def use_device(config: Config) -> torch.device:
    """The device, with its threads and all seeds set. Raises ConfigError for CUDA without a GPU."""
    device = resolve_device(config.device)
    make_deterministic(config.seed, device)
    return device


def check(config: Config) -> None:
    """Raises VggtqError for weights that are missing, architectures that are impossible and patterns that match no layer."""
    check_int8_attention(config.scheme, resolve_device(config.device))
    config.model.check()
    skeleton = config.model.skeleton()
    select_layers(skeleton, config.scheme)
    reduced = config.scheme.global_attention
    check_reduced(skeleton, reduced.frame_blocks, reduced.key_stride)
    if reduced.key_stride > 1 and config.memory.keys == "int8":
        raise ConfigError("scheme.global_attention.key_stride with memory.keys=int8: use one of the two")
    check_memory(skeleton, config.memory, config.scheme.attention)
    check_inputs(config.memory, config.scheme.activations)


def load(
    config: Config, device: torch.device, steps: Steps, seconds: Seconds, evaluated: Scene | None = None
) -> Prepared:
    """Reads the calibration samples, then the weights. Raises VggtqError, also where a sample is in the `evaluated` scene."""
    samples = Samples.of(config.calibration) if config.scheme.needs_calibration else None
    if samples and evaluated:
        samples.check_disjoint(evaluated)
    steps.step(f"loading {config.model.name}")
    with timed(seconds, "load"):
        model = config.model.load(device)
    return Prepared(config, device, model, samples)


def prepared(config: Config, steps: Steps) -> Prepared:
    """The float network and its samples. Raises VggtqError."""
    device = use_device(config)
    check(config)
    return load(config, device, steps, {})


def allocate_(source: Prepared, steps: Steps, seconds: Seconds) -> None:
    """Finds bits per layer where the scheme asks for them. Raises QuantizationError."""
    if not (source.config.scheme.allocates and source.samples):
        return
    steps.step("measuring what the bits of each layer cost")
    with timed(seconds, "allocate"):
        source.allocation, source.entry = find_bits(source.config, source.model, source.samples, steps)
    source.config = replace(source.config, scheme=source.allocation.scheme)


def quantize(source: Prepared, steps: Steps, seconds: Seconds, keep_float: bool = True) -> Quantized:
    """Quantizes, fine-tunes, rounds the rest, fuses.

    keep_float=False quantizes the network in place, so that its float weights are released layer by layer; fine-tuning needs
    them as its teacher and keeps them. Raises QuantizationError.
    """
    allocate_(source, steps, seconds)
    config, model, samples = source.config, source.model, source.samples
    steps.step(f"quantizing to {config.scheme.label}")
    with timed(seconds, "quantize"):
        apart = keep_float or config.scheme.finetune.steps > 0
        module = share_parameters(model.module) if apart else model.module
        quantization, finetune = quantize_model_(module, model, config, samples, steps)
        round_rest_(module, config.rest)
        fuse_(module, quantization)
    notes = [*quantization.notes, *(samples.notes if samples else ())]
    calibration = samples.describe(quantization) if samples else None
    return Quantized(
        config, module, quantization, model.weights, source.allocation, finetune, calibration, notes
    )
