"""The native product as an operator of torch, so that torch.compile and torch.export see a node and no call of ctypes."""

import ctypes
from enum import IntEnum

import torch
from torch import Tensor

from vggtq.machine.native import library


class Weight(ctypes.Structure):
    """VggtqWeight of interface.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("channel_scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("weighted_sums", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("scale_type", ctypes.c_int32),
    )


class Around(ctypes.Structure):
    """VggtqAround of interface.h."""

    _fields_ = (
        ("norm_weight", ctypes.c_void_p),
        ("norm_bias", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("gelu", ctypes.c_int32),
        ("gamma", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
    )


class Call(ctypes.Structure):
    """VggtqCall of interface.h."""

    _fields_ = (
        ("weight", ctypes.POINTER(Weight)),
        ("inputs", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("clip", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("zero", ctypes.c_int32),
        ("smallest", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("around", ctypes.POINTER(Around)),
    )


class Rounding(IntEnum):
    """VggtqRounding of interface.h: how inputs become codes."""

    TOKEN_SYMMETRIC = 0
    TOKEN_AFFINE = 1
    TENSOR_SYMMETRIC = 2
    TENSOR_AFFINE = 3
    FIXED = 4
    NONE = 5
    IN_BFLOAT16 = 6


class ScaleType(IntEnum):
    """VggtqType of interface.h, of scales."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    E8M0 = 3
    E4M3 = 4
    INTEGER = 5


TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # VggtqType


def linear(
    inputs: Tensor,
    codes: Tensor,
    scales: Tensor | None,
    channel_scales: Tensor | None,
    zeros: Tensor | None,
    sums: Tensor | None,
    weighted_sums: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    rows: int,
    bits: int,
    group: int,
    scale_type: int,
    rounding: int,
    input_bits: int,
    clip: float,
    scale: float,
    zero: int,
    smallest: int,
) -> Tensor:
    """inputs (T, C) → (T, rows) of the same type; tensors and numbers as VggtqWeight and VggtqCall of interface.h name them."""
    tensors = (codes, scales, channel_scales, zeros, sums, weighted_sums, table, bias)
    numbers = (rounding, input_bits, clip, scale, zero, smallest)
    return surrounded(None, inputs, *tensors, rows, bits, group, scale_type, *numbers)


def surrounded(
    around: Around | None,
    inputs: Tensor,
    codes: Tensor,
    scales: Tensor | None,
    channel_scales: Tensor | None,
    zeros: Tensor | None,
    sums: Tensor | None,
    weighted_sums: Tensor | None,
    table: Tensor | None,
    bias: Tensor | None,
    rows: int,
    bits: int,
    group: int,
    scale_type: int,
    *numbers: float,
) -> Tensor:
    """`linear` and what comes before and behind it; `numbers`: rounding … smallest."""
    native = library()
    if native is None:
        raise RuntimeError(
            "the native kernels that this layer was made for are not there; quantize_ or load it anew"
        )
    x = (inputs if inputs.dtype in TYPES else inputs.to(torch.float32)).contiguous()
    bias = None if bias is None else bias.to(torch.float32).contiguous()
    out = x.new_empty(x.shape[0], rows)
    parts = (_pointer(t) for t in (codes, scales, channel_scales, zeros, sums, weighted_sums, table))
    weight = Weight(*parts, rows, x.shape[1], bits, group, scale_type)
    pointers = (ctypes.pointer(weight), _pointer(x), _pointer(bias), _pointer(out))
    call = Call(*pointers, x.shape[0], TYPES[x.dtype], *numbers, torch.get_num_threads())
    if around is not None:
        call.around = ctypes.pointer(around)
    if not native.linear(call):
        raise MemoryError(f"no memory for the codes of {x.shape[0]} tokens of {x.shape[1]} inputs")
    return out.to(inputs.dtype)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


_operator = torch.library.custom_op("vggtq::quantized_linear", linear, mutates_args=(), device_types="cpu")


@_operator.register_fake
def _(inputs: Tensor, codes: Tensor, *others: object) -> Tensor:
    rows = others[7]
    assert isinstance(rows, int | torch.SymInt)
    return inputs.new_empty(inputs.shape[0], rows)


def traced_linear(inputs: Tensor, *rest: Tensor | float | None) -> Tensor:
    """`linear`, by way of torch's dispatcher only under torch.compile and with subclasses of Tensor.

    The dispatcher would double the time of a small product.
    """
    if torch.compiler.is_compiling() or type(inputs) is not Tensor:
        out: Tensor = torch.ops.vggtq.quantized_linear(inputs, *rest)
        return out
    return linear(inputs, *rest)  # type: ignore[arg-type]
