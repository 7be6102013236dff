"""Numbers and tensors for tests of the CUDA layers."""

from dataclasses import replace

import torch
from torch import Tensor

from helpers.triton_device import DEVICE
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

INT8 = Activations("dynamic", 8)
FLOAT8 = Activations("dynamic", 8, "float8_e4m3")
INT4_GROUP = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def there(packed: PackedWeight) -> PackedWeight:
    return replace(packed, **{name: tensor.to(DEVICE) for name, tensor in packed.tensors.items()})
