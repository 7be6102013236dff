"""The common base of layers that hold their weight in the layout of a CPU kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vggtq.quant.kernels.linear import QuantLinear


class KernelLayoutLinear(QuantLinear):
    """A weight in the layout of a CPU kernel. Saved and copied as the codes that it stands for; bound to the CPU."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {prefix + name: tensor for name, tensor in self.weight_tensors().items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.packed(), self.bias, self.activations)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        if fn(torch.zeros(())).device.type != "cpu":
            raise RuntimeError(
                f"a layer on {self.backend} is laid out for the CPU and cannot move; quantize_ the model after moving it"
            )
        return super()._apply(fn, recurse)
