"""Scaled dot products in a dtype of their own: softmax(q kᵀ / √d) v with q, k and v rounded first (Vaswani et al. 2017, eq. 1).

Modules offer it by an attribute `attention_dtype`, None for the inputs' own dtype, and by calling `attend`. In half precision
sums and softmax stay in float32, and masks are rounded as well; values beyond ±65504 overflow in float16. int8 is
`vggtq.network.native_attention`, and so is bfloat16 on CPUs that have a kernel for it; torch's kernels compute the rest.
"""

import functools
import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.network.native_attention import bfloat16_attention, has_bfloat16_attention, int8_attention

log = logging.getLogger(__name__)

ATTRIBUTE = "attention_dtype"


def attend(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype | None, mask: Tensor | None = None) -> Tensor:
    """q: (B, H, L, d), k, v: (B, H, S, d), mask: added to the logits. Returns (B, H, L, d) in q's dtype.

    What int8 cannot compute stays in the inputs' dtype, and a line in the log says why.
    """
    if dtype == torch.int8:
        left = _left_to_torch(q, k, v, mask)
        if left is None:
            return int8_attention(q, k, v)
        _tell(left)
    # Graphs have torch's operator: an exported one runs on other CPUs too.
    eager = type(q) is Tensor and not torch.compiler.is_compiling()
    native = dtype == torch.bfloat16 and eager and _left_to_torch(q, k, v, mask) is None
    if native and has_bfloat16_attention():
        return bfloat16_attention(q, k, v)
    if dtype in (None, torch.int8):
        return F.scaled_dot_product_attention(q, k, v, mask)
    mask = None if mask is None else mask.to(dtype)
    return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), mask).to(q.dtype)


def _left_to_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> str | None:
    """Why the native kernels do not compute this call."""
    if mask is not None:
        return "masks"
    if q.device.type not in ("cpu", "meta"):
        return q.device.type
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return "gradients"
    return None if k.shape[2] else "no keys"


@functools.cache
def _tell(left: str) -> None:
    log.warning("scaled dot products stay in float: int8 attention has no kernel for %s", left)


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
