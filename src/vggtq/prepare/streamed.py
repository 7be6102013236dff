"""A quantized network made from one weight at a time: memory holds the result and the tensor at hand, never the float model."""

from torch import Tensor, nn

from vggtq.config.schema import Config
from vggtq.machine.memory import release_between_layers
from vggtq.models.checkpoints.fingerprint import HashingReader, combined_fingerprint
from vggtq.prepare.quantized import Quantized, check, use_device
from vggtq.quant.kernels.linear import QuantLinear, ReferenceLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.select import select_layers
from vggtq.quant.walk.stored import round_rest_
from vggtq.terminal.progress import Steps


def streamed(config: Config, steps: Steps) -> Quantized:
    """As `vggtq.prepare.quantized.quantize`, for a scheme that needs no data; prepares no kernel to run it."""
    device = use_device(config)
    check(config)
    steps.step(f"quantizing {config.model.name} to {config.scheme.label}")
    skeleton = config.model.skeleton()
    selected = {
        id(w.parameter) for weights in select_layers(skeleton, config.scheme).replace for w in weights
    }
    names = {id(parameter): name for name, parameter in skeleton.state_dict(keep_vars=True).items()}
    stream = config.model.stream(skeleton)
    tensors = HashingReader(stream.get)

    def fetch(parameter: Tensor) -> Tensor:
        # A kept tensor must not keep the file mapped.
        return tensors.get(names[id(parameter)]).to(device, copy=id(parameter) not in selected)

    def on_layer(done: int, total: int) -> None:
        steps.at(done, total)
        release_between_layers(done, total)

    quantization = quantize_(
        skeleton, config.scheme, on_layer=on_layer, fetch=fetch, linear=_unprepared_linear
    )
    stream.close()
    round_rest_(skeleton, config.rest)
    fingerprint = combined_fingerprint(tensors.digests())
    return Quantized(config, skeleton.eval(), quantization, stream.info(fingerprint))


def _unprepared_linear(
    packed: PackedWeight, bias: nn.Parameter | None, activations: Activations
) -> QuantLinear:
    """A layer that keeps the weight as it is stored: no kernel will run, so none lays it out."""
    return ReferenceLinear(packed, bias, activations)
