"""softmax(q kᵀ / √d) v on the native CPU kernels, both products of 8-bit integers (quant/kernels/native/attention.inl.h) or of
bfloat16 (bfloat_attention.inl.h).

In int8, keys and values lose their mean before they are rounded (SageAttention, arXiv 2410.02367, section 4.2); weights
become 0 … 255 relative to the largest of a query in a block of 512 keys. In bfloat16, q, k, v and the weights
are rounded, and sums and exponentials are in float32. A query or key that is not finite gives NaN to what depends on it.
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
        ("output_type", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("in_bfloat16", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def int8_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: (B, H, L, d), k, v: (B, H, S, d) on the CPU, any strides. Returns (B, H, L, d) in q's dtype, laid out as (B, L, H, d).

    Raises MemoryError without memory for the codes.
    """
    if torch.compiler.is_compiling() or type(q) is not Tensor:
        out: Tensor = torch.ops.vggtq.int8_attention(q, k, v)
        return out
    return _in_int8(q, k, v)


def bfloat16_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `int8_attention`, in bfloat16; where `has_bfloat16_attention`, and not in graphs of torch.compile."""
    return _attention(q, k, v, in_bfloat16=True)


def _in_int8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attention(q, k, v, in_bfloat16=False)


def _attention(q: Tensor, k: Tensor, v: Tensor, in_bfloat16: bool) -> Tensor:
    native = library()
    if native is None or (in_bfloat16 and not native.attends_in_bfloat16):
        kind = "bfloat16" if in_bfloat16 else "int8"
        raise RuntimeError(f"{kind} attention needs native kernels, which are not there: {describe()}")
    dtype, wanted = (t.dtype if t.dtype in TYPES else torch.float32 for t in (v, q))
    inputs = [_rows(tensor.to(dtype)) for tensor in (q, k, v)]
    (batch, heads, asking, width), answering = q.shape, k.shape[2]
    out = _empty_like(q.to(wanted))
    call = Call(
        *(tensor.data_ptr() for tensor in (*inputs, out)),
        *(Strides(*tensor.stride()[:3]) for tensor in (*inputs, out)),
        *(batch, heads, asking, answering, width, TYPES[dtype], TYPES[wanted], width**-0.5),
        *(in_bfloat16, torch.get_num_threads()),
    )
    if not native.attention(call):
        raise MemoryError(f"no memory for the codes of {answering} keys of width {width}")
    return out.to(q.dtype)


def _rows(tensor: Tensor) -> Tensor:
    """The numbers of a token side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _empty_like(q: Tensor) -> Tensor:
    batch, heads, tokens, width = q.shape
    return q.new_empty(batch, tokens, heads, width).transpose(1, 2)


_operator = torch.library.custom_op("vggtq::int8_attention", _in_int8, mutates_args=(), device_types="cpu")


@_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _empty_like(q)


def int8_problem(device: torch.device) -> str | None:
    """Why it cannot be computed on this device and machine, None where it can."""
    if device.type not in ("cpu", "meta"):
        return f"it runs on CPUs alone, not on {device.type}"
    if library() is None:
        return f"there are no native kernels here ({describe()})"
    return None if is_right(False) else "its kernel gave a wrong result here"


def has_bfloat16_attention() -> bool:
    """Whether this CPU has a kernel in bfloat16, and it is right."""
    native = library()
    return native is not None and native.attends_in_bfloat16 and is_right(True)


@functools.cache
def is_right(in_bfloat16: bool) -> bool:
    """Whether a kernel is as close to float32 on a small case as its rounding allows; a line in the log says if not."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 2, n, 20, generator=generator) for n in (15, 70, 70))
        exact = F.scaled_dot_product_attention(q, k, v)
        right = bool((_attention(q, k, v, in_bfloat16) - exact).abs().max() < 0.1)
    if not right:
        kind = "bfloat16" if in_bfloat16 else "int8"
        log.warning("native %s attention is not used: its kernel gave a wrong result here", kind)
    return right
