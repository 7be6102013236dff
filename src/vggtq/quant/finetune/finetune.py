"""Fine-tuning from a float network to packed weights: round, train against the float network, round for good.

No labels: the float network's outputs are what is learned (self-distillation; for quantized networks Mishra and Marr 2018,
arXiv 1711.05852). Rounding after training is the start, with its transforms, its codes and its scales; see
`vggtq.quant.finetune.straight_through` for the gradients. Left out: convolutions, learned transforms and zero points.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from vggtq.files.cache import TensorCache
from vggtq.quant.finetune.layers import LearnedBranch, LearnedLinear, LearnedWeight
from vggtq.quant.finetune.trainer import Checkpoint, Data, Progress, Trainer
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.kernels.table import quantized_linear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Finetune
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.described import Quantization, describe_layers
from vggtq.quant.walk.observe import Calibrate, StatisticsCache
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.replace import LinearFactory, swap_modules_


def finetune_(
    model: nn.Module,
    teacher: nn.Module,
    scheme: Scheme,
    data: Data,
    *,
    calibrate: Calibrate | None = None,
    cache: StatisticsCache | None = None,
    checkpoint: Checkpoint | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    first_last: Sequence[str] | None = None,
    linear: LinearFactory = quantized_linear,
) -> tuple[Quantization, Progress]:
    """`quantize_` for schemes with finetune.steps > 0; `model` is a twin of `teacher` and may share its tensors.

    `on_step(progress)` is called after each step. With a `checkpoint` a training that was stopped goes on. Returns what was
    quantized, and what the training did. Raises QuantizationError.
    """
    quantization = quantize_(
        model,
        replace(scheme, finetune=Finetune()),
        first_last=first_last,
        on_layer=on_layer,
        linear=_Learned().linear,
        calibrate=calibrate,
        cache=cache,
        keep_exact=True,
    )
    _copy_rest_(model)
    _learn_branches_(model)
    checkpoint = checkpoint or Checkpoint(TensorCache(None), {})
    trainer = Trainer(model, teacher, data, scheme.finetune)
    with checkpoint.locked():
        checkpoint.load_into_(trainer)
        trainer.run(on_step or _silently, lambda: checkpoint.save(trainer))
    trainer.settle()
    quantization.notes += checkpoint.notes
    _exchange_(model, linear)
    ratios = {layer.name: layer.special_ratio for layer in quantization.layers}
    quantization.layers = describe_layers(model, ratios, ratios)
    return quantization, trainer.progress


def _silently(progress: Progress) -> None:
    pass


class _Learned:
    """Makes trainable layers; those that share a weight learn it together."""

    def __init__(self) -> None:
        self._weights: dict[int, LearnedWeight] = {}

    def linear(
        self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations
    ) -> LearnedLinear:
        if packed.identity not in self._weights:
            self._weights[packed.identity] = LearnedWeight(packed)
        return LearnedLinear(self._weights[packed.identity], bias, activations)


def _copy_rest_(model: nn.Module) -> None:
    """Gives the model its own copies of all parameters that it may share with the float network; tied ones stay tied."""
    copies: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, LearnedWeight):
            continue
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                copy = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                module._parameters[key] = copies.setdefault(id(parameter), copy)


def _learn_branches_(model: nn.Module) -> None:
    branches = {
        id(m): LearnedBranch(m, m.low_rank)
        for m in model.modules()
        if isinstance(m, TransformedLinear) and m.low_rank is not None
    }
    swap_modules_(model, branches)


def _exchange_(model: nn.Module, linear: LinearFactory) -> None:
    """Puts layers that predict in place of those that learn, with the codes that were learned."""
    packed = {id(m): m.pack() for m in model.modules() if isinstance(m, LearnedWeight)}
    layers: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, LearnedLinear):
            weight = replace(packed[id(module.weight)], input_range=module.learned_range())
            layers[id(module)] = linear(weight, module.bias, module.activations).train(module.training)
    swap_modules_(model, layers)
    swap_modules_(model, {id(m): m.settled() for m in model.modules() if isinstance(m, LearnedBranch)})
