"""Scratch memory of a thread, reused from call to call: fresh pages of a few MB cost as much as filling them."""

import threading

import torch
from torch import Tensor

_own = threading.local()


def scratch(name: str, elements: int, dtype: torch.dtype) -> Tensor:
    """(elements,) on the CPU with anything in it, valid until this thread asks for `name` again."""
    kept: dict[str, Tensor] = _own.__dict__
    tensor = kept.get(name)
    if tensor is None or tensor.numel() < elements:
        with torch.inference_mode(False):  # a tensor made inside could not be written to outside
            tensor = kept[name] = torch.empty(elements, dtype=dtype)
    return tensor[:elements]
