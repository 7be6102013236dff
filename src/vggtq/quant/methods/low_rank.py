"""A low-rank branch in half precision beside a quantized weight: x Wᵀ ≈ x̂ Ŵᵀ + (x Dᵀ) Uᵀ with D (r, C) and U (R, r).

SVDQuant (Li et al. 2025, arXiv 2411.05007, section 4.2): the largest singular values are taken out of W before it is rounded,
so that the rest has a smaller range and meets the activations' rounding with less weight. Afterwards U D is fitted anew to what
rounding left, W - Ŵ, for the least error of the layer's output: with G = K Kᵀ of the inputs it is min ‖(W - Ŵ - U D) K‖, solved
by the singular vectors of (W - Ŵ) K (LQER, Zhang et al. 2024, arXiv 2402.02446, with a Gram matrix instead of its diagonal).
Without data K = 1. Left out: alternating the two steps.
"""

import torch
from torch import Tensor

from vggtq.quant.numbers.basis import LowRank

DAMPING = 0.01  # of the mean power, added to every input's, as GPTQ does


def low_rank(rows: Tensor, rank: int, gram: Tensor | None = None) -> LowRank:
    """The best branch for the weight (R, C), by the output it gives where gram (C, C) is known. rank: at most min(R, C)."""
    exact = rows.double()
    factor = None if gram is None else _factor(gram)
    weighted = exact if factor is None else exact @ factor
    up, down = _factors(weighted, min(rank, *weighted.shape))
    if factor is not None:
        down = torch.linalg.solve_triangular(factor, down, upper=False, left=False)
    # One memory order: with another one, products of a loaded branch would differ in their last bits.
    return LowRank(down.half().contiguous(), up.half().contiguous())


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(R, r) and (r, C), whose product is the matrix's best approximation of that rank; singular values are shared evenly."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    # Eigenvectors of the smaller side: several times faster than an SVD, and exact enough for the largest values.
    vectors = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -rank:]
    projected = vectors.T @ wide
    root = projected.norm(dim=1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    short, long = vectors * root, projected / root[:, None]
    return (short, long) if wide is matrix else (long.T, short.T)


def _factor(gram: Tensor) -> Tensor:
    """Lower K with K Kᵀ = G, damped so that there is one."""
    exact = gram.double()
    mean = exact.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.linalg.cholesky(
        exact + DAMPING * mean * torch.eye(len(gram), dtype=exact.dtype, device=gram.device)
    )
