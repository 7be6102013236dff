"""Numbers and weights for tests of linear layers."""

import torch
from torch import Tensor

from vggtq.quant.scheme.activations import Activations

DYNAMIC = Activations("dynamic", 8)


def draw(kind: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    if kind == "uniform":
        return torch.rand(*shape, generator=generator) * 2 - 1
    if kind == "plus-minus-one":
        return values.sign()
    if kind == "all-positive":
        return values.abs() + 0.5
    if kind == "outliers":
        return values * torch.where(torch.rand(*shape, generator=generator) < 0.01, 100.0, 1.0)
    return values


KINDS = ("gaussian", "uniform", "plus-minus-one", "all-positive", "outliers")
