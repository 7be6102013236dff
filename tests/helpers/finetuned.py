"""A small network that is fine-tuned within a second on inputs from a generator."""

import copy

import torch
from torch import Tensor, nn

from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.trainer import Checkpoint, Progress
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Rounding, Transform
from vggtq.quant.scheme.parts import Finetune, Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights

FOUR = Activations("dynamic", 4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
    )


class Noise:
    """Inputs from a generator, no files."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.validation = [self.made(10**6 + i, 32) for i in range(2)]
        self.fail_at = fail_at

    @staticmethod
    def made(seed: int, size: int) -> Tensor:
        return torch.randn(size, 16, generator=torch.Generator().manual_seed(seed))

    def batch(self, step: int, size: int) -> list[Tensor]:
        if step == self.fail_at:
            raise KeyboardInterrupt
        return [self.made(step, 8 * size), self.made(step + 10**5, size)]


TINY = Finetune(steps=60, learning_rate=0.03, evaluate_every=10, patience=9, rest_learning_rate=1e-3)
RECIPE = Scheme(
    "tiny",
    Weights(bits=3),
    Activations("dynamic", 4),
    Layers(skip_first_last=False),
    rounding=Rounding("gptq"),
    transform=Transform("smooth", hadamard=True),
    finetune=TINY,
)


def calibrate(model: nn.Module) -> None:
    model(Noise.made(1, 256))


def tuned(
    scheme: Scheme = RECIPE, data: Noise | None = None, checkpoint: Checkpoint | None = None
) -> tuple[nn.Module, Progress]:
    teacher = net()
    student = copy.deepcopy(teacher)
    _, progress = finetune_(
        student,
        teacher,
        scheme,
        data or Noise(),
        calibrate=calibrate,
        checkpoint=checkpoint,
        linear=ReferenceLinear,
    )
    return student, progress
