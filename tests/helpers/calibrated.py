"""Recipes and pictures for tests of calibration."""

import torch
from torch import Tensor, nn

from helpers.runs import tiny
from vggtq.config.validate import validated
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Rounding, Transform
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights

GPTQ = Scheme(
    "gptq", Weights(bits=4, granularity="group", group_size=16), rounding=Rounding("gptq", clip=False)
)
W4A4 = Scheme(
    "w4a4",
    Weights(bits=4),
    Activations("dynamic", 4),
    rounding=Rounding("gptq", clip=False),
    transform=Transform("smooth", hadamard=True),
)


def pictures(count: int = 2, frames: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, frames, 3, 28, 42, generator=generator) for _ in range(count)]


def small() -> nn.Module:
    return validated(tiny()).model.load(torch.device("cpu")).module
