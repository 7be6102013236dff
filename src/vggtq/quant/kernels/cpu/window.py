"""The path of a convolution over its input, for integer kernels that follow it."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Window:
    """Of an ungrouped convolution; (height, width) each, padding in pixels.

    transposed: every input pixel becomes a window of outputs, and these do not overlap.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    transposed: bool = False

    @property
    def taps(self) -> int:
        """The number of places in the window."""
        return self.kernel[0] * self.kernel[1]


def window_of(conv: nn.Conv2d | nn.ConvTranspose2d) -> Window | None:
    """None for grouped ones, padding that is named, padding by anything but zeros, and transposed windows that overlap."""
    if conv.groups > 1 or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return None
    sizes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    kernel, stride, padding, dilation = ((int(size[0]), int(size[1])) for size in sizes)
    window = Window(kernel, stride, padding, dilation, isinstance(conv, nn.ConvTranspose2d))
    apart = kernel == stride and padding == (0, 0) and dilation == (1, 1)
    whole = apart and all(size == 0 for size in conv.output_padding)
    return window if whole or not window.transposed else None
