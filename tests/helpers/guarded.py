"""Memory that ends where nothing may be read."""

import ctypes
import mmap

import torch
from torch import Tensor

_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Copies of tensors that end right before a page without access; a read or a write beyond ends the process."""

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []

    def copy(self, tensor: Tensor) -> Tensor:
        page, count = mmap.PAGESIZE, tensor.numel() * tensor.element_size()
        whole = -(-max(count, 1) // page) * page
        memory = mmap.mmap(-1, whole + page)
        self._kept.append(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if _libc.mprotect(ctypes.c_void_p(start + whole), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        out = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=whole - count)
        return out.view(tensor.shape).copy_(tensor)
