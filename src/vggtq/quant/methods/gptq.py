"""GPTQ: round one input column after the other and let the columns still to come absorb the error.

Frantar et al. 2023 (arXiv 2210.17323), section 3 and algorithm 1: with H = X Xᵀ of the calibration inputs, after
column i is rounded the others move by -(w_i - ŵ_i) / [H⁻¹]_ii · [H⁻¹]_i,: (eq. 2), which the Cholesky factor of H⁻¹
gives for all columns at once. Columns with the largest inputs come first (act-order). Scales are those of the
unchanged weight (static groups), so that the order of the columns does not tear groups apart. Left out: scales that
follow the moving weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vggtq.errors import QuantizationError
from vggtq.quant.methods.clipping import clipped_parameters
from vggtq.quant.numbers.rounding import group_columns, quantization_parameters
from vggtq.quant.scheme.methods import Rounding
from vggtq.quant.scheme.weights import Weights

BLOCK = 128  # columns whose effect on all later ones is applied in one product
DAMPINGS = (1.0, 10.0, 100.0)  # times the damping asked for, until the factorization succeeds


@dataclass(frozen=True)
class ErrorSpread:
    """The spread of the error of one input column over the others.

    order: (C,), columns in the order of rounding. inverse: (C, C) upper U with UᵀU = H⁻¹ in that order.
    """

    order: Tensor
    inverse: Tensor


def static_parameters(rows: Tensor, spec: Weights, rounding: Rounding) -> tuple[Tensor, Tensor | None]:
    """As `quantization_parameters`. Errors move to other groups, so a group's share of the output's error says
    nothing.
    """
    return clipped_parameters(rows, spec) if rounding.clip else quantization_parameters(rows, spec)


def compensated_codes(
    rows: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    spec: Weights,
    rounding: Rounding,
    gram: Tensor,
) -> Tensor:
    """`gptq_codes` of a whole weight (R, C), for inputs with this Gram matrix (C, C)."""
    return gptq_codes(rows, scale, zero_point, spec, error_spread(gram, rounding.damping, rounding.act_order))


def error_spread(gram: Tensor, damping: float = 0.01, act_order: bool = True) -> ErrorSpread:
    """gram: (C, C), Σ x xᵀ of the layer's inputs up to a factor; damping: of the mean of its diagonal, added to it.

    Raises QuantizationError for a gram that is not positive even so.
    """
    diagonal = gram.diagonal()
    order = diagonal.argsort(descending=True) if act_order else torch.arange(len(gram), device=gram.device)
    return ErrorSpread(order, _inverse_factor(gram[order][:, order], damping))


def gptq_codes(
    rows: Tensor, scale: Tensor, zero_point: Tensor | None, spec: Weights, spread: ErrorSpread
) -> Tensor:
    """codes (R, C) int32 in qmin … qmax.

    rows: (R, C) float32, not modified; scale, zero_point: as `quantization_parameters` gives them.
    """
    columns = rows.shape[1]
    order, inverse = spread.order, spread.inverse
    group = group_columns(columns, spec)
    groups = (order // group if scale.shape[1] > 1 else torch.zeros_like(order)).tolist()
    # Transposed, so that the elements that a step reads and writes lie together.
    weight = rows.T[order]
    scales = scale.float().T.contiguous()
    zeros = [0.0] * scale.shape[1] if zero_point is None else zero_point.float().T.contiguous()
    diagonal = inverse.diagonal().tolist()
    codes = torch.empty_like(weight)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty_like(weight[start:stop])
        for i in range(start, stop):
            s, z = scales[groups[i]], zeros[groups[i]]
            code = torch.div(weight[i], s, out=codes[i]).round_().add_(z).clamp_(spec.qmin, spec.qmax)
            error = errors[i - start]
            torch.addcmul(weight[i], code - z, s, value=-1, out=error).div_(diagonal[i])
            weight[i + 1 : stop].addr_(inverse[i, i + 1 : stop], error, alpha=-1)
        weight[stop:].addmm_(inverse[start:stop, stop:].T, errors, alpha=-1)
    return codes[order.argsort()].T.to(torch.int32)


def _inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """Upper U with Uᵀ U = (H + damping · mean(diag H))⁻¹. float64, since inputs of small networks are nearly dependent.

    With both axes of H reversed, L Lᵀ turns into R Rᵀ with an upper R, and U = R⁻¹: half the work of inverting first.
    """
    hessian = gram.double()
    diagonal = hessian.diagonal()
    # An input that is always zero moves nothing, and nothing moves it.
    diagonal[diagonal == 0] = 1.0
    mean = diagonal.mean()
    for factor in DAMPINGS:
        damped = hessian.clone()
        damped.diagonal().add_(damping * factor * mean)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            return _upper_inverse(lower.flip(0, 1)).float()
    raise QuantizationError(
        f"GPTQ: the inputs of this layer leave no positive Hessian even with damping {damping * DAMPINGS[-1]:g}; "
        f"use more calibration samples, or a larger scheme.rounding.damping"
    )


def _upper_inverse(upper: Tensor) -> Tensor:
    """R⁻¹ by halves: [[A, B], [0, D]]⁻¹ = [[A⁻¹, -A⁻¹ B D⁻¹], [0, D⁻¹]], a third of the work of solving for all columns."""
    size = len(upper)
    if size <= BLOCK:
        identity = torch.eye(size, dtype=upper.dtype, device=upper.device)
        return torch.linalg.solve_triangular(upper, identity, upper=True)
    half = size // 2
    inverse = torch.zeros_like(upper)
    first, last = _upper_inverse(upper[:half, :half]), _upper_inverse(upper[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -(first @ upper[:half, half:]) @ last
    return inverse
