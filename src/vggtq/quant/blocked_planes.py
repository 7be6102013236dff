"""Weight-only layers of 2 to 7 bits, laid out so that operations on long runs of bytes decode them.

b bits are split into fields of 4, 2 and 1 bits. The n codes of a unit take, for each field of f bits, a plane of
W = ceil(n·f/8) bytes: byte j holds, from its low bits up, that field of the codes j, j + W, j + 2W, …; so one shift and one
mask decode W neighbours. 3 bits are a plane of 2-bit and one of 1-bit fields. A unit is a few rows that stay in the cache.
"""

import torch
from torch import Tensor, nn

from vggtq.quant.blocked_linear import BlockedLinear, by_group, named_tensors, one_scale_per_row, scale_
from vggtq.quant.packed import PackedWeight
from vggtq.quant.packing import pack, unpack
from vggtq.quant.rounding import block_of
from vggtq.quant.scheme import Activations, Weights
from vggtq.quant.scratch import scratch

UNIT_WEIGHTS = 2**18


class PlanesLinear(BlockedLinear):
    """planes: (bytes,) uint8, the planes of all units one after the other."""

    planes: Tensor

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self._unit_rows = max(1, UNIT_WEIGHTS // max(self.in_features, 1))
        units = packed.codes.split(self._unit_rows)
        planes = [
            to_planes(unpack(u, self.spec.bits, self.in_features).flatten(), self.spec.bits) for u in units
        ]
        self.register_buffer("planes", torch.cat(planes), persistent=False)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", packed.zero_point)
        self.scale_apart = one_scale_per_row(packed.scale)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return device.type == "cpu" and activations.mode == "none" and spec.format == "int" and spec.bits < 8

    @property
    def block_rows(self) -> int:
        return self._unit_rows

    def weight_tensors(self) -> dict[str, Tensor]:
        parts = []
        for start in range(0, self.out_features, self._unit_rows):
            unit = slice(start, min(start + self._unit_rows, self.out_features))
            codes = torch.empty((unit.stop - unit.start) * self.in_features, dtype=torch.uint8)
            decode_(self._planes(unit), self.spec.bits, codes)
            parts.append(pack(codes.view(-1, self.in_features), self.spec.bits))
        return named_tensors(torch.cat(parts), self.scale, self.zero_point)

    def dequantized(self, block: slice, scaled: bool = True) -> Tensor:
        rows = block.stop - block.start
        weight = scratch("weight", rows * self.in_features, torch.float32).view(rows, self.in_features)
        for start in range(block.start, block.stop, self._unit_rows):
            unit = slice(start, min(start + self._unit_rows, block.stop))
            self._dequantize_unit(unit, weight[start - block.start : unit.stop - block.start], scaled)
        return weight

    def _dequantize_unit(self, unit: slice, weight: Tensor, scaled: bool) -> None:
        codes = scratch("codes", weight.numel(), torch.uint8)
        values = decode_(self._planes(unit), self.spec.bits, codes).view(torch.int8).view(weight.shape)
        # Zero points are subtracted from bytes: that is quicker than from floats, and fits, with 7 bits at most.
        if self.zero_point is None:
            values.sub_(2 ** (self.spec.bits - 1))
        else:
            by_group(torch.sub, values, block_of(self.zero_point, unit).view(torch.int8), self.spec)
        scale_(weight.copy_(values), block_of(self.scale, unit) if scaled else None, None, self.spec)

    def _planes(self, unit: slice) -> Tensor:
        start = (
            unit.start // self._unit_rows * plane_bytes(self._unit_rows * self.in_features, self.spec.bits)
        )
        size = plane_bytes((unit.stop - unit.start) * self.in_features, self.spec.bits)
        return self.planes[start : start + size]


def fields(bits: int) -> list[tuple[int, int]]:
    """Width and lowest bit of the fields of a code: 7 → [(4, 3), (2, 1), (1, 0)]."""
    return [(width, bits & (width - 1)) for width in (4, 2, 1) if bits & width]


def plane_bytes(codes: int, bits: int) -> int:
    """Bytes of all planes of one unit."""
    return sum(-(-codes * width // 8) for width, _ in fields(bits))


def to_planes(codes: Tensor, bits: int) -> Tensor:
    """codes: (n,) uint8, one unit. Returns (plane_bytes(n, bits),) uint8."""
    planes = []
    for width, low in fields(bits):
        size = -(-codes.numel() * width // 8)
        plane = torch.zeros(size, dtype=torch.uint8)
        for lane, part in enumerate(codes.split(size)):
            plane[: part.numel()] |= ((part >> low) & (2**width - 1)) << (width * lane)
        planes.append(plane)
    return torch.cat(planes)


def decode_(planes: Tensor, bits: int, codes: Tensor) -> Tensor:
    """The inverse of `to_planes`: writes the codes to `codes`, (n,) uint8, and returns them."""
    for number, (width, low) in enumerate(fields(bits)):
        size = -(-codes.numel() * width // 8)
        plane, planes = planes[:size], planes[size:]
        for lane, part in enumerate(codes.split(size)):
            # The first field overwrites what was there, the others are added to it.
            target = part if number == 0 else torch.empty_like(part)
            _field(plane[: part.numel()], target, width, lane, low)
            if number > 0:
                part |= target
    return codes


def _field(plane: Tensor, out: Tensor, width: int, lane: int, low: int) -> None:
    """The lane's field of every byte, moved to the bits from `low` up."""
    down = width * lane - low
    if down > 0:
        torch.bitwise_right_shift(plane, down, out=out)
    else:
        torch.bitwise_left_shift(plane, -down, out=out)
    if width * (lane + 1) < 8 or low > 0:  # otherwise the shift has cut off everything else
        out &= (2**width - 1) << low
