"""Codes of 2 to 8 bits, packed without gaps: row r of C codes takes ceil(C · bits / 8) bytes.

Codes are unsigned and fill each row as one little-endian bit string: code i occupies bits i·b … i·b + b-1. So two 4-bit
codes share a byte (the first in the low half) and eight 3-bit codes share three. Rows start on byte boundaries, which lets a
kernel read any range of rows. 16-bit codes are two little-endian bytes each.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad


def packed_width(columns: int, bits: int) -> int:
    """Bytes that one row of `columns` codes takes."""
    return -(-columns * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes: (R, C) integers in 0 … 2^bits-1. Returns (R, ceil(C·bits/8)) uint8."""
    if bits == 8:
        return codes.to(torch.uint8).contiguous()
    if bits == 16:
        # uint16 has few operators; wrapping into int16 keeps the two bytes.
        return codes.to(torch.int32).to(torch.int16).contiguous().view(torch.uint8)
    lanes, word_bytes = _word(bits)
    word_dtype = torch.uint8 if word_bytes == 1 else torch.int64
    columns = codes.shape[1]
    padded = pad(codes, (0, -columns % lanes))
    words = torch.zeros(padded.shape[0], padded.shape[1] // lanes, dtype=word_dtype, device=codes.device)
    for lane in range(lanes):
        words |= padded[:, lane::lanes].to(word_dtype) << (bits * lane)
    if word_bytes > 1:
        words = torch.stack([(words >> (8 * i)) & 0xFF for i in range(word_bytes)], dim=-1).flatten(1)
    return words[:, : packed_width(columns, bits)].to(torch.uint8).contiguous()


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Inverse of `pack`. packed: (R, bytes) uint8. Returns (R, columns) uint8, or int32 for 16 bits."""
    if bits == 8:
        return packed
    if bits == 16:
        return packed.view(torch.int16).to(torch.int32) & 0xFFFF
    lanes, word_bytes = _word(bits)
    words = packed
    if word_bytes > 1:
        padded = pad(packed, (0, -packed.shape[1] % word_bytes)).unflatten(1, (-1, word_bytes))
        words = torch.zeros(padded.shape[:2], dtype=torch.int64, device=packed.device)
        for i in range(word_bytes):
            words |= padded[:, :, i].to(torch.int64) << (8 * i)
    mask = 2**bits - 1
    codes = torch.empty(words.shape[0], words.shape[1], lanes, dtype=torch.uint8, device=packed.device)
    for lane in range(lanes):
        codes[:, :, lane] = (words >> (bits * lane)) & mask
    return codes.flatten(1)[:, :columns]


def _word(bits: int) -> tuple[int, int]:
    """The smallest number of codes that fills whole bytes, and those bytes: 4 bits → (2, 1), 3 bits → (8, 3)."""
    lanes = 8 // math.gcd(8, bits)
    return lanes, lanes * bits // 8
