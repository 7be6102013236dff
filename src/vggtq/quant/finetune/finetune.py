"""Fine-tuning from a float network to packed weights: round, train against the float network, round for good.

No labels: the float network's outputs are what is learned (self-distillation; for quantized networks Mishra and Marr 2018,
arXiv 1711.05852). Rounding after training is the start, with its transforms, its codes and its scales; see
`vggtq.quant.finetune.straight_through` for the gradients. Left out: convolutions, learned transforms and zero points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from vggtq.quant.backends import quantized_linear
from vggtq.quant.calibration import Calibrate, StatisticsCache
from vggtq.quant.finetune.checkpoint import Checkpoint
from vggtq.quant.finetune.layers import LearnedBranch, LearnedLinear, LearnedWeight
from vggtq.quant.finetune.settings import Finetune
from vggtq.quant.finetune.trainer import Data, Progress, Trainer
from vggtq.quant.layers import TransformedLinear
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight
from vggtq.quant.quantize import LinearFactory, Quantization, quantize_
from vggtq.quant.scheme import Activations, Scheme
from vggtq.quant.size import layer_name


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
    result = quantize_(
        *(model, replace(scheme, finetune=Finetune()), first_last, on_layer),
        linear=_Learned().linear,
        calibrate=calibrate,
        cache=cache,
        keep_exact=True,
    )
    _own_rest_(model)
    _learn_branches_(model)
    checkpoint = checkpoint or Checkpoint(None, {})
    trainer = Trainer(model, teacher, data, scheme.finetune)
    with checkpoint.locked():
        checkpoint.load_into_(trainer)
        trainer.run(on_step or _silently, lambda: checkpoint.save(trainer))
    trainer.settle()
    result.notes += checkpoint.notes
    _exchange_(model, result, linear)
    return result, trainer.progress


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


def _own_rest_(model: nn.Module) -> None:
    """Gives the model its own copies of all parameters that it may share with the float network; tied ones stay tied."""
    own: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, LearnedWeight):
            continue
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                copied = own.setdefault(id(parameter), nn.Parameter(parameter.detach().clone(), False))
                module._parameters[key] = copied


def _learn_branches_(model: nn.Module) -> None:
    branches = {
        id(m): LearnedBranch(m, m.low_rank)
        for m in model.modules()
        if isinstance(m, TransformedLinear) and m.low_rank is not None
    }
    _swap_(model, branches)


def _swap_(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Puts new[id(module)] in place of every module that it names."""
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and id(child) in new:
                setattr(parent, key, new[id(child)])


def _exchange_(model: nn.Module, result: Quantization, linear: LinearFactory) -> None:
    """Puts layers that predict in place of those that learn, with the codes that were learned."""
    weights = {id(m): m for m in model.modules() if isinstance(m, LearnedWeight)}
    packed = {key: weight.pack() for key, weight in weights.items()}
    layers: dict[str, tuple[PackedWeight, QuantLinear]] = {}
    new: dict[int, QuantLinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LearnedLinear):
            weight = replace(packed[id(module.weight)], input_range=module.learned_range())
            made = linear(weight, module.bias, module.activations)
            new[id(module)] = made
            made.train(module.training)
            layers[layer_name(model, name)] = (weight, made)
    _swap_(model, new)
    _swap_(model, {id(m): m.settled() for m in model.modules() if isinstance(m, LearnedBranch)})
    _describe_(result, layers)


def _describe_(result: Quantization, layers: Mapping[str, tuple[PackedWeight, QuantLinear]]) -> None:
    for index, entry in enumerate(result.layers):
        packed, layer = layers[entry.name]
        scale, branch = packed.transform.scale, packed.low_rank
        beside = 0 if scale is None else scale.numel() * scale.element_size()
        beside += 0 if branch is None else branch.stored_bytes
        result.layers[index] = replace(
            entry,
            backend=layer.backend,
            simulated=layer.simulated,
            resident_bytes=layer.resident_bytes() + beside,
            weight_sqnr_db=packed.sqnr_db,
            notes=packed.notes + layer.notes,
            rule=layer.rule,
            input_range=None if layer.input_range is None else layer.input_range.ends,
        )
