"""Numbers, weights and recipes for tests of linear layers."""

import torch
from torch import Tensor, nn

from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Layers

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

INPUTS = {
    "per token": DYNAMIC,
    "per token asymmetric": Activations("dynamic", symmetric=False),
    "per tensor": Activations("dynamic", granularity="per_tensor"),
    "per tensor asymmetric": Activations("dynamic", granularity="per_tensor", symmetric=False),
    "static": Activations("static"),
    "static asymmetric": Activations("static", symmetric=False),
    "static 5 bits": Activations("static", 5),
    "4 bits": Activations("dynamic", 4),
}
FLOAT = Activations()

WHOLE = Layers(skip_first_last=False)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16))


def static(**options: object) -> Activations:
    return Activations("static", **options)  # type: ignore[arg-type]
