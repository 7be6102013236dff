"""The native convolution as an operator of torch, and the order in which it reads its weight."""

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from vggtq.machine.native import library

QUAD = 4  # channels whose products are summed by one instruction
_Sizes = ctypes.c_int64 * 2


class Convolution(ctypes.Structure):
    """VggtqConvolution of interface.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("images", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("outputs_count", ctypes.c_int64),
        ("size", _Sizes),
        ("output_size", _Sizes),
        ("kernel", _Sizes),
        ("stride", _Sizes),
        ("padding", _Sizes),
        ("dilation", _Sizes),
        ("rounding", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("input_bits", ctypes.c_int32),
        ("clip", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("zero", ctypes.c_int32),
        ("smallest", ctypes.c_int32),
        ("positive_inputs", ctypes.c_int32),
        ("positive_residual", ctypes.c_int32),
        ("positive_outputs", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def taps_to_panels(codes: Tensor, panel: int) -> Tensor:
    """codes: (O, taps, C) int8. Returns [panels][taps][padded C / 4][panel][4], padded with zeros."""
    outputs, taps, channels = codes.shape
    filled = pad(codes, (0, -channels % QUAD, 0, 0, 0, -outputs % panel))
    vectors = filled.view(-1, panel, taps, filled.shape[2] // QUAD, QUAD)
    return vectors.permute(0, 2, 3, 1, 4).contiguous()


def taps_from_panels(packed: Tensor, outputs: int, channels: int) -> Tensor:
    """The inverse: (O, taps, C)."""
    whole = packed.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)
    return whole[:outputs, :, :channels].contiguous()


def output_size(size: tuple[int, int], window: list[int]) -> list[int]:
    """Of a convolution. window: kernel, stride, padding and dilation, (rows, columns) each, as one list."""
    kernel, stride, padding, dilation = (window[i : i + 2] for i in range(0, 8, 2))
    return [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]


def convolve(
    images: Tensor,
    codes: Tensor,
    sums: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    outputs: int,
    window: list[int],
    rounding: int,
    input_bits: int,
    clip: float,
    scale: float,
    zero: int,
    smallest: int,
    exact_bits: int,
    positive: int,
) -> Tensor:
    """images (M, C, H, W) → (M, outputs, H', W') of the same type, channels last; the rest as VggtqConvolution names it.

    input_bits, exact_bits: `bits` and `input_bits` there. positive: what goes through ReLU, 1 for inputs, 2 for the residual
    and 4 for outputs, added up. Raises ValueError for images that are smaller than a window.
    """
    native = library()
    if native is None:
        raise RuntimeError(
            "the native kernels that this layer was made for are not there; quantize_ or load it anew"
        )
    count, channels, height, width = images.shape
    size = output_size((height, width), window)
    if min(size) < 1:
        raise ValueError(
            f"images of {height} × {width} are smaller than a window of {window[0]} × {window[1]}"
        )
    x = _pixels(images)
    added = None if residual is None else _pixels(residual)
    if bias is not None and bias.dtype != torch.float32:
        bias = bias.to(torch.float32)
    out = x.new_empty(count, *size, outputs)
    tensors = [None if t is None else t.data_ptr() for t in (codes, sums, scales, bias, x, added, out)]
    steps = (_Sizes(*window[i : i + 2]) for i in range(0, 8, 2))
    sizes = (count, channels, outputs, _Sizes(height, width), _Sizes(*size), *steps)
    numbers = (rounding, input_bits, exact_bits, clip, scale, zero, smallest)
    flags = (positive & 1, positive >> 1 & 1, positive >> 2 & 1)
    if not native.convolve(Convolution(*tensors, *sizes, *numbers, *flags, torch.get_num_threads())):
        raise MemoryError(f"no memory for the codes of images of {height} × {width} with {channels} channels")
    out = out.permute(0, 3, 1, 2)
    return out if images.dtype == torch.float32 else out.to(images.dtype)


def _pixels(images: Tensor) -> Tensor:
    """(M, C, H, W) as float32 (M, H, W, C), without a copy where channels are last in memory."""
    return (
        (images if images.dtype == torch.float32 else images.to(torch.float32))
        .permute(0, 2, 3, 1)
        .contiguous()
    )


_operator = torch.library.custom_op(
    "vggtq::quantized_convolution", convolve, mutates_args=(), device_types="cpu"
)


@_operator.register_fake
def _(
    images: Tensor,
    codes: Tensor,
    sums: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    outputs: int,
    window: list[int],
    *numbers: float,
) -> Tensor:
    size = output_size((images.shape[2], images.shape[3]), window)
    return images.new_empty(images.shape[0], *size, outputs).permute(0, 3, 1, 2)


def traced_convolve(images: Tensor, *rest: object) -> Tensor:
    """`convolve`, by way of torch's dispatcher only under torch.compile and with subclasses of Tensor."""
    if torch.compiler.is_compiling() or type(images) is not Tensor:
        out: Tensor = torch.ops.vggtq.quantized_convolution(images, *rest)
        return out
    return convolve(images, *rest)  # type: ignore[arg-type]
