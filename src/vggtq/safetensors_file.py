"""Writes safetensors files one tensor at a time; the library's own writer copies all of them into memory first.

Format: 8 bytes little-endian header length, a JSON header padded with spaces to a multiple of 8, then the bytes of all tensors
without gaps (https://github.com/huggingface/safetensors).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vggtq.atomic import replacing

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
            # A single number counts as contiguous whatever its stride, which a view as bytes does not forgive.
            flat = (
                tensors[name]
                .detach()
                .cpu()
                .contiguous()
                .reshape(-1)
                .as_strided((tensors[name].numel(),), (1,))
                .view(torch.uint8)
            )
            file.write(flat.numpy().data)
        return file.tell()


def _header(names: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
