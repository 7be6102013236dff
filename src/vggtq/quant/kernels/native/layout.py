"""Weights in the order in which the native kernels read them, and back.

A panel of P outputs is a matrix of vectors: P / lanes columns of them for every four inputs, where a vector holds four inputs
of `lanes` outputs. Eight vectors after one another make a unit, in which codes of b bits are kept in fields of 4, 2 and 1 bits:
a field of w bits takes w vectors, the first of which holds that field of the vectors 0 … 8/w - 1 from its low bits up. Inputs
are padded to a multiple of 32 and outputs to one of P.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32


def padded(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def fields(bits: int) -> list[tuple[int, int]]:
    """Width and lowest bit of the fields of a code: 7 → [(4, 3), (2, 1), (1, 0)]; eight bits are one field."""
    return [(8, 0)] if bits == 8 else [(width, bits & (width - 1)) for width in (4, 2, 1) if bits & width]


def codes_to_panels(codes: Tensor, bits: int, lanes: int, panel: int) -> Tensor:
    """codes: (N, C) uint8, N and C padded already. Returns (N · C · bits / 8,) uint8."""
    rows, columns = codes.shape
    fours = codes.contiguous().view(torch.int32)  # four inputs move as one number
    vectors = fours.view(rows // panel, panel // lanes, lanes, columns // 4).permute(0, 3, 1, 2)
    units = vectors.contiguous().view(torch.uint8).view(-1, 8, 4 * lanes)
    if bits == 8:
        return units.flatten()
    parts = []
    for width, low in fields(bits):
        lane = ((units >> low) & (2**width - 1)).view(-1, width, 8 // width, 4 * lanes)
        parts.append(sum((lane[:, :, i] << (width * i) for i in range(1, 8 // width)), lane[:, :, 0]))
    return torch.cat(parts, dim=1).flatten()


def codes_from_panels(packed: Tensor, bits: int, lanes: int, panel: int, shape: tuple[int, int]) -> Tensor:
    """The inverse: (N, C) uint8 of padded N and C."""
    rows, columns = shape
    packed, units, start = packed.view(-1, bits, 4 * lanes), torch.zeros((), dtype=torch.uint8), 0
    for width, low in fields(bits):
        part = packed[:, start : start + width]
        lane = torch.stack([(part >> (width * i)) & (2**width - 1) for i in range(8 // width)], dim=2)
        units, start = units + (lane.flatten(1, 2) << low), start + width
    vectors = units.contiguous().view(torch.int32).view(rows // panel, columns // 4, panel // lanes, lanes)
    return vectors.permute(0, 2, 3, 1).contiguous().view(torch.uint8).view(rows, columns)


def groups_to_panels(values: Tensor, rows: int, panel: int) -> Tensor:
    """values: (R or 1, G) of one number per row and group. Returns (panels · G · P,) of the same type, padded with zeros."""
    bytes_ = values.view(torch.uint8) if values.itemsize == 1 else values  # 8-bit floats cannot be padded
    filled = pad(bytes_.expand(rows, -1), (0, 0, 0, -rows % panel))
    return filled.view(-1, panel, values.shape[1]).transpose(1, 2).flatten().view(values.dtype)


def groups_from_panels(packed: Tensor, shape: tuple[int, ...], panel: int) -> Tensor:
    """The inverse, of (R or 1, G)."""
    return packed.view(-1, shape[1], panel).transpose(1, 2).reshape(-1, shape[1])[: shape[0]].contiguous()
