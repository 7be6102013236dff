"""`python -m vggtq.export`: a checkpoint to a quantized model file, tensor by tensor, without ever holding the float model.

python -m vggtq.export scheme=int4_group group_size=64 out=model.safetensors
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.allocator import release_between_layers
from vggtq.command_line import execute
from vggtq.config import Config
from vggtq.errors import ConfigError
from vggtq.progress import Steps
from vggtq.run import composed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vggtq.artifact import Saved
    from vggtq.models.checkpoint import WeightsInfo
    from vggtq.quant.linear import QuantLinear
    from vggtq.quant.packed import PackedWeight
    from vggtq.quant.quantize import Quantization
    from vggtq.quant.scheme import Activations, Scheme

log = logging.getLogger(__name__)

HELP = """Writes a quantized model: one safetensors file with packed weights, scales, and the recipe.

  python -m vggtq.export scheme=int4_group group_size=64 out=model.safetensors
  python -m vggtq.export model=vggt_1b model.source=vggt.safetensors scheme=int4_group rest=float16 out=int4.safetensors

  out=FILE       where to write (required; must end in .safetensors)
  overwrite=true to replace a file
  model=…        vggt_1b, vggt_mini, …; model.source=FILE for weights of your own
  scheme=…       with bits=, granularity=, group_size=, scheme.layers.…, as for python -m vggtq.run
  rest=…         float32 (default), float16 or bfloat16: everything that is not quantized

Use it with python -m vggtq.predict model=FILE images=DIR out=DIR, or vggtq.load(FILE) in Python.
"""


def export(config: Config, out: Path, steps: Steps) -> "Saved":
    """Streams the model's weights through the scheme into `out`. Raises VggtqError."""
    from vggtq import artifact

    out = artifact.checked_path(out)
    steps.step(f"quantizing {config.model.name} to {config.scheme.label}")
    module, quantization, weights, scheme = quantize_stream(config, steps)
    steps.step(f"writing {out}")
    return artifact.save(module, out, scheme, quantization, weights, config.model.identity(), config.rest)


def quantize_stream(config: Config, steps: Steps) -> "tuple[nn.Module, Quantization, WeightsInfo, Scheme]":
    """The quantized network, made from one weight at a time: memory holds the result and the tensor at hand.

    The scheme is that of `config`, with the bits per layer that were found where it asks for them.
    """
    from vggtq.models.checkpoint import combined_fingerprint, tensor_digest
    from vggtq.quant.quantize import quantize_
    from vggtq.quant.rest import round_rest_
    from vggtq.quant.select import select_layers

    if config.scheme.needs_calibration:
        return _quantize_calibrated(config, steps)
    skeleton = config.model.skeleton()
    selected = {id(w.parameter) for own in select_layers(skeleton, config.scheme).replace for w in own}
    parameters = skeleton.state_dict(keep_vars=True)
    names = {id(parameter): name for name, parameter in parameters.items()}
    stream = config.model.stream(skeleton)
    digests: dict[str, Future[str]] = {}
    last: list[Future[str]] = []

    with ThreadPoolExecutor(1) as pool:

        def fetch(parameter: "Tensor") -> "Tensor":
            name = names[id(parameter)]
            tensor: Tensor = stream.get(name)
            for earlier in last:
                earlier.result()  # so that hashing keeps no more than one tensor alive
            last[:] = [pool.submit(tensor_digest, tensor)]
            digests[name] = last[0]
            # What is kept must not keep the file mapped.
            return tensor if id(parameter) in selected else tensor.clone()

        def on_layer(done: int, total: int) -> None:
            steps.at(done, total)
            release_between_layers(done, total)

        quantization = quantize_(
            skeleton, config.scheme, on_layer=on_layer, fetch=fetch, linear=_unprepared_linear
        )
    stream.close()
    round_rest_(skeleton, config.rest)
    fingerprint = combined_fingerprint({name: future.result() for name, future in digests.items()})
    return skeleton.eval(), quantization, stream.info(fingerprint), config.scheme


def _quantize_calibrated(
    config: Config, steps: Steps
) -> "tuple[nn.Module, Quantization, WeightsInfo, Scheme]":
    """The same for recipes that look at the inputs of layers: the model has to run, so all of it is loaded."""
    import torch

    from vggtq.allocation import check_bytes, find_bits
    from vggtq.calibration_data import Samples
    from vggtq.finetuning import quantize_model_
    from vggtq.models.loading import share_parameters
    from vggtq.quant.rest import round_rest_
    from vggtq.quant.size import stored_bytes

    samples = Samples.of(config.calibration)
    device = torch.device("cpu")
    loaded = config.model.load(device)
    allocation = None
    if config.scheme.allocates:
        allocation, _ = find_bits(config, loaded, samples, steps)
        config = replace(config, scheme=allocation.scheme)
    steps.step(f"calibrating {config.model.name} and quantizing it to {config.scheme.label}")
    # Fine-tuning needs the float model beside its twin; other recipes release its weights as they go.
    module = share_parameters(loaded.module) if config.scheme.finetune.steps else loaded.module
    quantization, _ = quantize_model_(module, loaded, config, samples, steps, device)
    round_rest_(module, config.rest)
    if allocation:
        check_bytes(allocation, stored_bytes(module, getattr(torch, config.rest)))
    return module, quantization, loaded.weights, config.scheme


def _unprepared_linear(
    packed: "PackedWeight", bias: "nn.Parameter | None", activations: "Activations"
) -> "QuantLinear":
    """A layer that keeps the weight as it is stored: no kernel will run, so none lays it out."""
    from vggtq.quant.linear import ReferenceLinear

    return ReferenceLinear(packed, bias, activations)


def command(argv: Sequence[str]) -> None:
    """Reads out= and overwrite=; everything else is composed as for a run. Raises VggtqError."""
    own, overrides = {"out": "", "overwrite": "false"}, []
    for argument in argv:
        key, is_set, value = argument.partition("=")
        if is_set and key in own:
            own[key] = value
        else:
            overrides.append(argument)
    if not own["out"]:
        raise ConfigError("out= is missing: name the file to write, e.g. out=model.safetensors")
    out = Path(own["out"])
    config = composed(overrides)
    if config.scheme.weights.format == "float32":
        raise ConfigError("scheme=fp32 quantizes nothing; choose another, e.g. scheme=int4_group")
    if out.exists() and own["overwrite"].lower() != "true":
        raise ConfigError(f"{out} exists; add overwrite=true or choose another name")
    with Steps() as steps:
        saved = export(config, out, steps)
    log.info("%s  %.1f MiB, %s", saved.path, saved.file_bytes / 2**20, config.scheme.label)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(execute(sys.argv[1:], HELP, command))
