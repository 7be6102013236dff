"""Writes safetensors files one tensor at a time; the library's own writer copies all of them into memory first.

Format: 8 bytes little-endian header length, a JSON header padded with spaces to a multiple of 8, then the bytes of all tensors
without gaps (https://github.com/huggingface/safetensors).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vggtq.files.atomic import replacing

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes to a temporary name beside `path` and renames. Returns the size of the file, bytes."""
    # Wide types first, so that every tensor starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    head = _header(names, tensors, metadata)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        for name in names:
            file.write(raw_bytes(tensors[name]))
        return file.tell()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor in memory order, without a copy where it lies contiguously on the CPU."""
    # Viewed as bytes, since NumPy knows no bfloat16.
    # A single number counts as contiguous whatever its stride, which a view as bytes does not forgive.
    flat = tensor.detach().cpu().contiguous().reshape(-1).as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _header(names: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
