"""Hadamard rotation: spreads outliers over all channels and changes no product, since (x R)(W R)ᵀ = x Wᵀ for orthogonal R.

Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456); in QuantVGGT (2025) before smoothing. R is block-diagonal with
Sylvester's matrices of the largest power of two that divides the width, so 192 = 3 · 64 has three blocks of 64.
"""

import torch
from torch import Tensor


def block_width(columns: int) -> int:
    """The largest power of two that divides `columns`."""
    return columns & -columns


def rotate(x: Tensor, width: int) -> Tensor:
    """x R over the last axis, same shape; R is symmetric, so it is its own inverse. Fast: log2(width) sums and differences.

    width: of a block, a power of two that divides the last axis.
    """
    blocks = x.unflatten(-1, (-1, width))
    half = 1
    while half < width:
        pairs = blocks.unflatten(-1, (-1, 2, half))
        a, b = pairs.unbind(-2)
        blocks = torch.stack([a + b, a - b], -2).flatten(-3)
        half *= 2
    return (blocks * width**-0.5).flatten(-2)
