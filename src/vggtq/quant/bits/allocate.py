"""Bits per layer under a byte budget: minimize Σ e(layer, bits) subject to Σ bytes(layer, bits) ≤ budget, one width per layer.

A multiple-choice knapsack (Kellerer, Pferschy, Pisinger 2004, chapter 11), solved to proven optimality by branch and bound
(HiGHS, through scipy.optimize.milp). That errors of layers add is an assumption; the budget is none: bytes are those of the
rounded weights, and the sum is checked in whole numbers.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggtq.errors import QuantizationError
from vggtq.quant.bits.sensitivity import Sensitivities
from vggtq.quant.scheme.scheme import Scheme

MIB = 2**20
SECONDS = 60.0  # 363 layers take a few; what is found by then is taken, with its gap in the record


@dataclass(frozen=True)
class Solution:
    """picks: the column chosen in each row. gap: how far the error may be above the smallest possible one, relative."""

    picks: tuple[int, ...]
    bytes: int
    error: float
    gap: float
    status: str


@dataclass(frozen=True)
class Allocation:
    """The widths that were chosen. predicted: relative error of each output, if errors of layers add.

    budget_bytes and stored_bytes are of the whole model, as are smallest_bytes and largest_bytes, the possible extremes.
    """

    scheme: Scheme
    solution: Solution
    budget_bytes: int
    stored_bytes: int
    smallest_bytes: int
    largest_bytes: int
    predicted: dict[str, float]


def allocate(scheme: Scheme, sensitivities: Sensitivities) -> Allocation:
    """The scheme with bits for each layer. Raises QuantizationError for a budget that cannot be met."""
    sizes, other = sensitivities.bytes.numpy(), sensitivities.other_bytes
    smallest, largest = (other + int(f(sizes, axis=1).sum()) for f in (np.min, np.max))
    budget = _budget(scheme, sensitivities)
    if budget < smallest:
        raise QuantizationError(
            f"budget_mb={budget / MIB:g}: with scheme.mixed.candidates={sensitivities.bits} the stored model takes "
            f"{_up(smallest)} to {_up(largest)} MiB; raise the budget, add candidates, or use rest=float16"
        )
    solution = solve(sizes, sensitivities.mean.numpy(), budget - other)
    widths = [sensitivities.bits[pick] for pick in solution.picks]
    named = zip(sensitivities.layers, widths, strict=True)
    bits = {name: width for names, width in named for name in names}
    weights = sensitivities.weights.double().numpy()
    mean_bits = float(weights @ np.array(widths) / weights.sum())
    predicted = {
        output: math.sqrt(sum(float(errors[i, pick]) for i, pick in enumerate(solution.picks)))
        for output, errors in sensitivities.errors.items()
    }
    return Allocation(
        scheme=replace(scheme, mixed=replace(scheme.mixed, bits=bits, mean_bits=round(mean_bits, 3))),
        solution=solution,
        budget_bytes=budget,
        stored_bytes=other + solution.bytes,
        smallest_bytes=smallest,
        largest_bytes=largest,
        predicted=predicted,
    )


def _budget(scheme: Scheme, sensitivities: Sensitivities) -> int:
    """Bytes of the whole model: the size that was asked for, or that of all layers at the bits of
    `scheme.weights`.
    """
    if scheme.mixed.budget_mb is not None:
        return math.floor(scheme.mixed.budget_mb * MIB)
    uniform = sensitivities.bytes[:, sensitivities.bits.index(scheme.weights.bits)]
    return sensitivities.other_bytes + int(uniform.sum())


def _up(size: int) -> str:
    """MiB with two digits, rounded up: the printed number is a budget that suffices."""
    return f"{math.ceil(size / MIB * 100) / 100:.2f}"


def solve(sizes: NDArray[np.int64], errors: NDArray[np.float64], budget: int) -> Solution:
    """sizes, errors: (U, W), one column is to be chosen in each row. budget ≥ the sum of the smallest sizes.

    Raises QuantizationError where errors are not finite.
    """
    if not np.isfinite(errors).all():
        raise QuantizationError(
            "the outputs of a layer's candidates are NaN or infinite; check the calibration samples"
        )
    from scipy.optimize import Bounds, LinearConstraint, milp  # few runs search for bits
    from scipy.sparse import csr_array

    rows, columns = sizes.shape
    least = sizes.min(1)
    extra = sizes - least[:, None]
    room = budget - int(least.sum())
    unit = int(np.gcd.reduce(np.append(extra.ravel(), 0))) or 1  # smaller numbers, smaller tolerances
    extra, room = extra // unit, room // unit
    scale = float(errors.max() - errors.min()) or 1.0
    # HiGHS stops at an absolute gap of 1e-6: beside errors of 1e-7 and less that would be no optimum.
    objective = (errors - errors.min(1, keepdims=True)) * (1e6 / scale)
    one = csr_array(
        (np.ones(rows * columns), (np.repeat(np.arange(rows), columns), np.arange(rows * columns)))
    )
    solution = milp(
        objective.ravel(),
        integrality=np.ones(rows * columns),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(extra.reshape(1, -1), -np.inf, room)],
        options={"time_limit": SECONDS, "mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise QuantizationError(
            f"no allocation was found: {solution.message}; use fewer scheme.mixed.candidates"
        )
    picks = tuple(int(pick) for pick in solution.x.reshape(rows, columns).argmax(1))
    picked = range(rows), list(picks)
    total = int(sizes[picked].sum())
    if total > budget:  # a solver works within tolerances; a budget does not
        raise QuantizationError(
            f"the solver exceeded the budget by {total - budget} bytes; lower budget_mb a little"
        )
    optimal = solution.status == 0
    return Solution(
        picks=picks,
        bytes=total,
        error=float(errors[picked].sum()),
        gap=0.0 if optimal else float(solution.mip_gap),
        status="optimal" if optimal else f"stopped after {SECONDS:.0f} s",
    )
