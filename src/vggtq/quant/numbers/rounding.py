"""Round to nearest: code = clamp(round(w / scale) + zero_point). Jacob et al. 2018 (arXiv 1712.05877), eq. 1 to 3.

Pure functions on a weight laid out as rows: one row per output channel, its inputs along the columns. Every range is
widened to contain zero, so zero is a code (padding and pruned weights stay exact) and zero points fit the code's own width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from vggtq.quant.scheme.weights import Weights

# Rows are rounded in blocks of about this many weights: temporaries stay in the cache instead of doubling a layer's memory.
BLOCK_WEIGHTS = 2**20


def group_columns(columns: int, spec: Weights) -> int:
    """Columns that share a scale: the group size, or the whole row."""
    if spec.granularity == "group" and spec.group_size is not None:
        return min(spec.group_size, columns)
    return columns


def quantization_parameters(rows: Tensor, spec: Weights) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points by min-max.

    rows: (R, C) float32. Returns scale float32 and zero_point int32 (None for symmetric numbers), both of shape (1, 1) per
    tensor, (R, 1) per channel, (R, ceil(C / group_size)) for groups. A range without any value but zero gets scale 1.
    """
    groups = grouped(rows, group_columns(rows.shape[1], spec))
    low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
    if spec.granularity == "per_tensor":
        low, high = low.amin().reshape(1, 1), high.amax().reshape(1, 1)
    if spec.symmetric:
        scale = torch.maximum(-low, high) / spec.qmax
        return _positive(scale), None
    scale = _positive(high / spec.qmax - low / spec.qmax)  # two divisions: high - low may overflow
    return scale, zero_points(low, scale, spec)


def zero_points(low: Tensor, scale: Tensor, spec: Weights) -> Tensor:
    """The code that stands for zero when `low` (≤ 0) is the smallest value. Same shape as scale, int32."""
    return torch.round(-low / scale).clamp(0, spec.qmax).to(torch.int32)


def round_to_codes(rows: Tensor, scale: Tensor, zero_point: Tensor | None, spec: Weights) -> Tensor:
    """codes (R, C) int32 in qmin … qmax; scale and zero_point as `quantization_parameters` returns them."""
    columns = rows.shape[1]
    groups = grouped(rows, group_columns(columns, spec))
    codes = torch.round(groups / scale.unsqueeze(-1))
    if zero_point is not None:
        codes += zero_point.unsqueeze(-1)
    return codes.clamp_(spec.qmin, spec.qmax).to(torch.int32).flatten(1)[:, :columns]


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | int | None, spec: Weights) -> Tensor:
    """w = scale · (code - zero_point), (R, C) float32. codes: (R, C) integers; a number as zero point serves all of them."""
    columns = codes.shape[1]
    # A copy: what follows is in place.
    values = grouped(codes.to(torch.float32), group_columns(columns, spec))
    if isinstance(zero_point, Tensor):
        zero_point = zero_point.unsqueeze(-1)
    if zero_point is not None:
        values = values.sub_(zero_point)
    return values.mul_(scale.unsqueeze(-1)).flatten(1)[:, :columns]


def row_blocks(rows: Tensor) -> Iterator[slice]:
    """Slices of the rows (R, C) that hold about BLOCK_WEIGHTS weights; all at once on a GPU, where launches cost more."""
    step = max(1, BLOCK_WEIGHTS // max(rows.shape[1], 1)) if rows.device.type == "cpu" else max(1, len(rows))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def block_of(parameter: Tensor, block: slice) -> Tensor:
    """The scales of a block of rows; a per-tensor scale serves every row."""
    return parameter if parameter.shape[0] == 1 else parameter[block]


def grouped(rows: Tensor, group: int) -> Tensor:
    """(R, C) → (R, ceil(C/group), group). The tail is filled with zeros, which no range excludes."""
    tail = -rows.shape[1] % group
    return (pad(rows, (0, tail)) if tail else rows).unflatten(1, (-1, group))


def _positive(scale: Tensor) -> Tensor:
    """Scale 1 where there is nothing but zeros, or values so small that their scale is not a float32."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
