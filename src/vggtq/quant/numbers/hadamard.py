"""Hadamard rotation: spreads outliers over all channels and changes no product, since (x R)(W R)ᵀ = x Wᵀ for orthogonal R.

Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456); in QuantVGGT (2025) before smoothing. R is block-diagonal with
Sylvester's matrices of the largest power of two that divides the width, so 192 = 3 · 64 has three blocks of 64. A wide
matrix is the Kronecker product of two narrow ones, H_ab = H_a ⊗ H_b: on a CPU two small products take a fifth (256 wide)
to a seventeenth (1024 wide) of the time that the sums and differences of the fast transform take in torch.
"""

import functools

import torch
from torch import Tensor

NARROW = 64  # blocks up to here are one product
PART_BYTES = 2**20  # of inputs that are rotated at a time on a CPU: what lies between stays in its cache


def block_width(columns: int) -> int:
    """The largest power of two that divides `columns`."""
    return columns & -columns


def rotation_of(columns: int) -> int:
    """The block width for this many input channels; 0 where blocks would be too narrow to spread anything."""
    width = block_width(columns)
    return width if width >= 8 else 0


def rotate(x: Tensor, width: int, stride: int = 1) -> Tensor:
    """x R over the last axis, same shape; R is symmetric, so it is its own inverse.

    width: of a block, a power of two. stride: how far apart its channels are; width · stride divides the last axis. Behind
    blocks of `stride` neighbours, blocks with that stride complete the rotation of width · stride: H_ab = H_a ⊗ H_b.
    """
    rows = x.reshape(-1, x.shape[-1])
    in_parts = x.device.type == "cpu" and not x.requires_grad
    at_once = max(1, PART_BYTES // (x.shape[-1] * x.element_size())) if in_parts else len(rows)
    if len(rows) <= at_once:
        return _rotated(rows, width, stride).view(x.shape)
    turned = torch.empty_like(rows)
    for part, place in zip(rows.split(at_once), turned.split(at_once), strict=True):
        place.copy_(_rotated(part, width, stride))
    return turned.view(x.shape)


def _rotated(rows: Tensor, width: int, stride: int) -> Tensor:
    """x R for rows (T, C)."""
    if stride > 1:
        blocks = sylvester(width, rows.dtype, rows.device) @ rows.reshape(-1, width, stride)
        return blocks.mul_(width**-0.5).reshape(rows.shape)
    left = 1 if width <= NARROW else 2 ** ((width.bit_length() - 1) // 2)
    right = width // left
    blocks = rows.reshape(-1, left, right) @ sylvester(right, rows.dtype, rows.device)
    if left > 1:
        blocks = sylvester(left, rows.dtype, rows.device) @ blocks
    return blocks.mul_(width**-0.5).reshape(rows.shape)


@functools.cache
@torch.inference_mode(False)  # its results are used in training too
def sylvester(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(width, width) of ±1, exact in every dtype; H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    from scipy.linalg import hadamard  # takes half a second to import, and few schemes rotate

    return torch.from_numpy(hadamard(width)).to(device, dtype)
