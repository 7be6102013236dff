"""The dtype in which dense heads multiply: their own, or a narrower one under autocast.

Heads offer it by an attribute `head_dtype`, None for the dtype of their tokens. Norms and what follows the last convolution
stay in the tokens' dtype.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

ATTRIBUTE = "head_dtype"


def autocast_to(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to `dtype`, or none at all, whatever there is around it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, dtype, enabled=dtype is not None)
    return nullcontext()


def set_heads_(model: nn.Module, name: str) -> int:
    """Sets the dtype, `float32` meaning that of the tokens, on every head that offers it; returns how many do."""
    dtype = None if name == "float32" else getattr(torch, name)
    heads = heads_of(model)
    for head in heads.values():
        setattr(head, ATTRIBUTE, dtype)
    return len(heads)


def heads_of(model: nn.Module) -> dict[str, nn.Module]:
    """Those that offer it, by their names."""
    return {name: module for name, module in model.named_modules() if hasattr(module, ATTRIBUTE)}
