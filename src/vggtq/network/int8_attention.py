"""softmax(q kᵀ / √d) v with both products of 8-bit integers, on the native CPU kernels (quant/kernels/native/attention.inl.h).

Keys and values lose their mean before they are rounded (SageAttention, arXiv 2410.02367, section 4.2); weights become 0 … 255
relative to the largest of a query in a block of 512 keys. A query or key that is not finite gives NaN to what depends on it.
"""

import ctypes
import functools
import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.machine.native import describe, library

log = logging.getLogger(__name__)

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # VggtqType
Strides = ctypes.c_int64 * 3


class Call(ctypes.Structure):
    """VggtqAttention of interface.h."""

    _fields_ = (
        ("queries", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("query_strides", Strides),
        ("key_strides", Strides),
        ("value_strides", Strides),
        ("output_strides", Strides),
        ("batch", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("query_tokens", ctypes.c_int64),
        ("key_tokens", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    )


def int8_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: (B, H, L, d), k, v: (B, H, S, d) on the CPU, any strides. Returns (B, H, L, d) in v's dtype, laid out as (B, L, H, d).

    Raises MemoryError without memory for the codes.
    """
    if torch.compiler.is_compiling() or type(q) is not Tensor:
        out: Tensor = torch.ops.vggtq.int8_attention(q, k, v)
        return out
    return _attention(q, k, v)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    native = library()
    if native is None:
        raise RuntimeError(f"int8 attention needs the native kernels, which are not there: {describe()}")
    dtype = v.dtype if v.dtype in TYPES else torch.float32
    inputs = [_rows(tensor.to(dtype)) for tensor in (q, k, v)]
    (batch, heads, asking, width), answering = q.shape, k.shape[2]
    out = _empty_like(inputs[0])
    call = Call(
        *(tensor.data_ptr() for tensor in (*inputs, out)),
        *(Strides(*tensor.stride()[:3]) for tensor in (*inputs, out)),
        *(batch, heads, asking, answering, width, TYPES[dtype], width**-0.5, torch.get_num_threads()),
    )
    if not native.attention(call):
        raise MemoryError(f"no memory for the codes of {answering} keys of width {width}")
    return out.to(v.dtype)


def _rows(tensor: Tensor) -> Tensor:
    """The numbers of a token side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _empty_like(q: Tensor) -> Tensor:
    batch, heads, tokens, width = q.shape
    return q.new_empty(batch, tokens, heads, width).transpose(1, 2)


_operator = torch.library.custom_op("vggtq::int8_attention", _attention, mutates_args=(), device_types="cpu")


@_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _empty_like(q).to(v.dtype)


def int8_problem(device: torch.device) -> str | None:
    """Why it cannot be computed on this device and machine, None where it can."""
    if device.type not in ("cpu", "meta"):
        return f"it runs on CPUs alone, not on {device.type}"
    if library() is None:
        return f"there are no native kernels here ({describe()})"
    return None if is_right() else "its kernel gave a wrong result here"


@functools.cache
def is_right() -> bool:
    """Whether the kernel is as close to float32 on a small case as its rounding allows; a line in the log says if not."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 2, n, 20, generator=generator) for n in (15, 70, 70))
        exact = F.scaled_dot_product_attention(q, k, v)
        right = bool((_attention(q, k, v) - exact).abs().max() < 0.1)
    if not right:
        log.warning("int8 attention is not used: its kernel gave a wrong result here")
    return right
