"""How far a network's outputs are from those of another: relative errors, of outputs and of what modules inside return.

The error of an output is ‖q - r‖₂ / ‖r‖₂, and the loss is a weighted mean of such errors: outputs count alike
whatever their units, and no output is done with because another one's error is larger. The same for the modules that
`features` names, which gives early layers a shorter way to learn (FitNets, Romero et al. 2015, arXiv 1412.6550).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError, did_you_mean
from vggtq.quant.finetune.settings import Finetune

Outputs = dict[str, Tensor]


class Disagreement:
    """Between the outputs of two networks for the same inputs (B, …)."""

    def __init__(self, student: nn.Module, teacher: nn.Module, settings: Finetune) -> None:
        self._student, self._teacher, self._settings = student, teacher, settings
        self._device = next(iter(student.parameters())).device
        self._wanted: list[Outputs] = []  # for the inputs that the error is measured on
        self._names: list[str] = []

    def loss(self, inputs: Tensor) -> Tensor:
        """A scalar to descend."""
        settings, inputs = self._settings, inputs.to(self._device)
        with torch.no_grad(), tapped(self._teacher, settings.features) as wanted_inside:
            wanted = named_outputs(self._teacher(inputs))
        # In bfloat16 on a GPU alone: with the heads in float32 and the teacher exact, a CPU gains a tenth of a step.
        cuda = self._device.type == "cuda"
        half = torch.autocast("cuda", torch.bfloat16, enabled=cuda)
        with tapped(self._student, settings.features) as inside, half:
            outputs = named_outputs(self._student(inputs))
        learnable = {name: outputs[name] for name in self._check(outputs)}
        loss = weighted_mean(relative_errors(learnable, wanted), settings.outputs)
        if inside:
            loss = loss + settings.feature_weight * weighted_mean(relative_errors(inside, wanted_inside), {})
        return loss

    def error(self, samples: Sequence[Tensor]) -> float:
        """The mean over samples, always the same ones, of the outputs' weighted mean error."""
        if not self._wanted:
            with torch.no_grad():
                self._wanted = [named_outputs(self._teacher(x.to(self._device))) for x in samples]
            self._names = self._check(named_outputs(self._student(samples[0].to(self._device))))
        with torch.no_grad():
            errors = [self._error(x, wanted) for x, wanted in zip(samples, self._wanted, strict=True)]
        return sum(errors) / len(errors)

    def _error(self, inputs: Tensor, wanted: Outputs) -> float:
        outputs = named_outputs(self._student(inputs.to(self._device)))
        errors = relative_errors({name: outputs[name] for name in self._names}, wanted)
        return float(weighted_mean(errors, self._settings.outputs))

    def _check(self, outputs: Outputs) -> list[str]:
        """The outputs that depend on what is learned. Raises QuantizationError where none of them counts."""
        known = [name for name, value in outputs.items() if value.requires_grad]
        for name in self._settings.outputs:
            if name not in known:
                raise QuantizationError(
                    f"scheme.finetune.outputs.{name}: the network's outputs that can learn are {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )
        if not any(self._settings.outputs.get(name, 1.0) for name in known):
            raise QuantizationError(
                "scheme.finetune: no output of the network has a weight; name one in scheme.finetune.outputs"
            )
        return known


def named_outputs(returned: Any) -> Outputs:
    """The float tensors that a network returns, by name: of a mapping its keys, of a sequence 0, 1, …; others are left out."""
    if isinstance(returned, Tensor):
        returned = {"output": returned}
    elif isinstance(returned, Sequence):
        returned = dict(enumerate(returned))
    return {str(k): v for k, v in returned.items() if isinstance(v, Tensor) and v.is_floating_point()}


def relative_errors(outputs: Outputs, wanted: Outputs) -> Outputs:
    """`relative_error` of every output, scalars."""
    return {name: relative_error(value, wanted[name]) for name, value in outputs.items()}


def relative_error(value: Tensor, wanted: Tensor) -> Tensor:
    """The mean over the first axis of ‖q - r‖₂, over the root mean square of ‖r‖₂: a scalar, differentiable where both agree.

    Norms are averaged, not squares, so that one difficult sample does not decide everything.
    """
    difference, reference = (
        (t.float().flatten(1) if t.ndim > 1 else t[None].float()) for t in (value - wanted, wanted)
    )
    size = reference.square().sum(1).mean().clamp_min(1e-30)
    return ((difference.square().sum(1) / size) + 1e-12).sqrt().mean()


def weighted_mean(errors: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weights that are not given are 1."""
    total = sum(weights.get(name, 1.0) for name in errors)
    parts = [weights.get(name, 1.0) * error for name, error in errors.items()]
    return torch.stack(parts).sum() / total


@contextmanager
def tapped(model: nn.Module, patterns: Sequence[str]) -> Iterator[Outputs]:
    """While it is open, what the matching modules return in a forward pass, by module name.

    Raises QuantizationError for patterns that match no module.
    """
    seen: Outputs = {}
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise QuantizationError(
                f"scheme.finetune.features: {pattern!r} matches none of the {len(names)} modules; "
                f"patterns match whole dotted names such as {names[-1]}"
            )
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if any(fnmatchcase(name, pattern) for pattern in patterns):

                def hook(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
                    if isinstance(out, Tensor):
                        seen[name] = out

                stack.callback(module.register_forward_hook(hook).remove)
        yield seen
