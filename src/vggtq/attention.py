"""Scaled dot products in a dtype of their own: softmax(q kᵀ / √d) v with q, k and v rounded first (Vaswani et al. 2017, eq. 1).

Modules offer it by an attribute `attention_dtype`, None for the inputs' own dtype, and by calling `attend`. Sums and softmax
stay in float32 within torch's kernels; masks are rounded as well. Values beyond ±65504 overflow in float16.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTRIBUTE = "attention_dtype"


def attend(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype | None, mask: Tensor | None = None) -> Tensor:
    """q: (B, H, L, d), k, v: (B, H, S, d), mask: added to the logits. Returns (B, H, L, d) in v's dtype."""
    if dtype is None or dtype == v.dtype:
        return F.scaled_dot_product_attention(q, k, v, mask)
    mask = None if mask is None else mask.to(dtype)
    return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), mask).to(v.dtype)


def offers_attention(module: nn.Module) -> bool:
    """Whether the dtype of its scaled dot products can be chosen."""
    return hasattr(module, ATTRIBUTE)


def set_attention_(model: nn.Module, name: str) -> int:
    """Sets the dtype, `float32` meaning that of the inputs, on every module that offers it; returns how many do."""
    dtype = None if name == "float32" else getattr(torch, name)
    modules = [module for module in model.modules() if offers_attention(module)]
    for module in modules:
        setattr(module, ATTRIBUTE, dtype)
    return len(modules)
