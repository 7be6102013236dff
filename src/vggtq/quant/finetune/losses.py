"""The distance of a network's outputs from those of another.

The error of an output is ‖q - r‖₂ / ‖r‖₂, and the loss is the mean of these errors. Outputs count alike
whatever their units, and no output is neglected because another one's error is larger.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError

Outputs = dict[str, Tensor]


class Disagreement:
    """The difference between the outputs of two networks for the same inputs (B, …)."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self._student, self._teacher = student, teacher
        self._device = next(iter(student.parameters())).device
        self._targets: list[Outputs] = []  # for the inputs that the error is measured on
        self._names: list[str] = []

    def loss(self, inputs: Tensor) -> Tensor:
        """The loss, a scalar with gradients."""
        inputs = inputs.to(self._device)
        with torch.no_grad():
            targets = named_outputs(self._teacher(inputs))
        # In bfloat16 on a GPU alone: with the heads in float32 and the teacher exact, a CPU gains a tenth of a step.
        cuda = self._device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            outputs = named_outputs(self._student(inputs))
        return mean_error(outputs, targets, learnable(outputs))

    def error(self, samples: Sequence[Tensor]) -> float:
        """The mean over samples, always the same ones, of the outputs' mean error."""
        if not self._targets:
            with torch.no_grad():
                self._targets = [named_outputs(self._teacher(x.to(self._device))) for x in samples]
            self._names = learnable(named_outputs(self._student(samples[0].to(self._device))))
        with torch.no_grad():
            errors = [self._error(x, targets) for x, targets in zip(samples, self._targets, strict=True)]
        return sum(errors) / len(errors)

    def _error(self, inputs: Tensor, targets: Outputs) -> float:
        outputs = named_outputs(self._student(inputs.to(self._device)))
        return float(mean_error(outputs, targets, self._names))


def learnable(outputs: Outputs) -> list[str]:
    """The outputs that depend on the trained parameters. Raises QuantizationError where there is none."""
    names = [name for name, value in outputs.items() if value.requires_grad]
    if not names:
        raise QuantizationError(
            f"scheme.finetune: none of the network's outputs ({', '.join(outputs) or 'it has none'}) depends on what is "
            "learned; select layers that lead to an output with scheme.layers"
        )
    return names


def named_outputs(returned: Any) -> Outputs:
    """The float tensors that a network returns, by name: of a mapping its keys, of a sequence 0, 1, …; others are left out."""
    if isinstance(returned, Tensor):
        returned = {"output": returned}
    elif isinstance(returned, Sequence):
        returned = dict(enumerate(returned))
    return {str(k): v for k, v in returned.items() if isinstance(v, Tensor) and v.is_floating_point()}


def mean_error(outputs: Outputs, targets: Outputs, names: Sequence[str]) -> Tensor:
    """The mean of `relative_error` over the outputs with these names, a scalar."""
    return torch.stack([relative_error(outputs[name], targets[name]) for name in names]).mean()


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """The mean over the first axis of ‖q - r‖₂, over the root mean square of ‖r‖₂: a scalar, differentiable where both agree.

    Norms are averaged, not squares, so that one difficult sample does not decide everything.
    """
    difference, reference = (
        (t.float().flatten(1) if t.ndim > 1 else t[None].float()) for t in (value - target, target)
    )
    size = reference.square().sum(1).mean().clamp_min(1e-30)
    return ((difference.square().sum(1) / size) + 1e-12).sqrt().mean()
