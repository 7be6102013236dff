"""Parameter-free position codes: rotary (RoFormer, split over y and x) and additive sine/cosine grids.

Everything is computed anew on the device that asks: nothing is cached across devices, dtypes or grad modes,
and nothing stays behind on the meta device.
"""

import torch
from torch import Tensor

RopeTable = tuple[Tensor, Tensor]


def rope_table(
    grid_hw: tuple[int, int], special: int, head_dim: int, base: float, device: torch.device
) -> RopeTable:
    """cos and sin, each (special + gh·gw, head_dim) float32: the first half turns with y, the second with x.

    Patch (row i, column j) sits at (i + 1, j + 1); the special tokens sit at (0, 0), where nothing turns.
    """
    gh, gw = grid_hw
    half = head_dim // 2
    omega = base ** (-torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    rows = torch.arange(1, gh + 1, device=device, dtype=torch.float32)
    cols = torch.arange(1, gw + 1, device=device, dtype=torch.float32)
    y = (rows[:, None] * omega).repeat(1, 2)[:, None].expand(gh, gw, half)
    x = (cols[:, None] * omega).repeat(1, 2)[None].expand(gh, gw, half)
    angles = torch.cat([y, x], dim=-1).reshape(gh * gw, head_dim)
    angles = torch.cat([angles.new_zeros(special, head_dim), angles])
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, table: RopeTable, groups: int = 2) -> Tensor:
    """Rotates x (…, N, d): within each of `groups` parts of d, channels of its first half pair with those of its second."""
    cos, sin = table
    a, b = x.unflatten(-1, (groups, 2, -1)).unbind(-2)
    rotated = torch.stack([-b, a], dim=-2).flatten(-3)
    # The angles stay float32 up to here: rounded to bfloat16 first they would lose whole degrees.
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)


def grid_embedding(xs: Tensor, ys: Tensor, channels: int, base: float) -> Tensor:
    """(channels, H, W) float32 for xs (W,) and ys (H,): [sin(xω) ⊕ cos(xω) ⊕ sin(yω) ⊕ cos(yω)].

    ω_k = base^(−k/(channels/4)), each part channels/4 wide.
    """
    x = _sincos(xs, channels // 4, base)
    y = _sincos(ys, channels // 4, base)
    x = x.T[:, None, :].expand(-1, len(ys), -1)
    y = y.T[:, :, None].expand(-1, -1, len(xs))
    return torch.cat([x, y])


def image_plane_embedding(
    grid_hw: tuple[int, int], aspect: float, channels: int, device: torch.device
) -> Tensor:
    """(channels, H, W): `grid_embedding` at cell centres of an image plane whose half diagonal is 1.

    aspect: the image's W/H.
    """
    return grid_embedding(*image_plane(grid_hw, aspect, device), channels, base=100.0)


def image_plane(grid_hw: tuple[int, int], aspect: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """x (W,) and y (H,) of the cell centres of an image plane whose half diagonal is 1, float32."""
    h, w = grid_hw
    span_y = (aspect**2 + 1) ** -0.5
    span_x = aspect * span_y
    xs = torch.linspace(-span_x * (w - 1) / w, span_x * (w - 1) / w, w, device=device, dtype=torch.float32)
    ys = torch.linspace(-span_y * (h - 1) / h, span_y * (h - 1) / h, h, device=device, dtype=torch.float32)
    return xs, ys


def _sincos(positions: Tensor, count: int, base: float) -> Tensor:
    # MPS has no float64; float32 differs by about 1e-7.
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    omega = base ** (-torch.arange(count, device=positions.device, dtype=precise) / count)
    angles = positions.to(precise)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def seen_tokens(
    grid: tuple[int, int], special: int, frames: int, stride: int, device: torch.device
) -> Tensor | None:
    """The indices of the tokens of S frames that are keys: special ones, and patches of every `stride`-th row
    and column; None for all.

    The chosen rows and columns lie in the middle of those that they stand for.
    """
    if stride == 1:
        return None
    rows, columns = (torch.arange((stride - 1) // 2 if n >= stride else 0, n, stride) for n in grid)
    patches = special + (rows[:, None] * grid[1] + columns).flatten()
    one = torch.cat([torch.arange(special), patches])
    every = torch.arange(frames)[:, None] * (special + grid[0] * grid[1])
    return (every + one).flatten().to(device)
