"""Whether an exported file computes what our own prediction from the same weights is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vggtq.errors import ExportError

WEIGHT_ONLY = 1e-3  # of float products, which differ in the order of sums alone
OWN_ROUNDING = 2.0  # how much the rounding of an engine may cost beside ours, which has other scales

Arrays = Mapping[str, np.ndarray]


@dataclass
class OutputParity:
    """One output of the exported file. Errors are relative: |a - b| / |b|, Euclidean norms over all values."""

    error: float  # of the file; against our prediction, or where the engine rounds inputs itself, against exact inputs
    limit: float  # above which an export fails


def compare(
    found: Arrays, ours: Arrays, exact: Arrays | None, engine_rounds: bool
) -> dict[str, OutputParity]:
    """found: by the engine. exact: by the same weights without rounded inputs; None where the scheme rounds none.
    engine_rounds: whether it rounds otherwise than we do here: inputs with scales of its own, or not the weights, where our
    products take fewer of their bits.

    The limit of integer inputs is the error that their rounding itself makes; where the engine rounds otherwise, both are
    compared with exact inputs and its error may be twice ours.
    """
    result = {}
    for name, value in ours.items():
        if exact is None:
            result[name] = OutputParity(relative(found[name], value), WEIGHT_ONLY)
            continue
        rounding = relative(value, exact[name])
        base, share = (exact[name], OWN_ROUNDING) if engine_rounds else (value, 1.0)
        result[name] = OutputParity(relative(found[name], base), max(WEIGHT_ONLY, share * rounding))
    return result


def check(parity: Mapping[str, OutputParity], engine: str) -> None:
    """Raises ExportError for an output that is further off than its limit, or not finite."""
    for name, entry in parity.items():
        if not entry.error <= entry.limit:
            known = ""
            if engine.startswith("OnnxRuntime") and entry.limit > WEIGHT_ONLY:
                known = "int8 products of ONNX Runtime saturate on a CPU without VNNI; export on another. Otherwise "
            raise ExportError(
                f"{engine} computes {name} with a relative error of {entry.error:.2g}, above {entry.limit:.2g}; nothing was "
                f"written. {known}{'r' if known else 'R'}eport it with the versions that vggtq --version and pip list print. "
                "format=torch_export works in either case"
            )


def relative(values: np.ndarray, reference: np.ndarray) -> float:
    """|values - reference| / |reference|, NaN where something is not finite."""
    reference = reference.astype(np.float64)
    return float(np.linalg.norm(values - reference)) / max(float(np.linalg.norm(reference)), 1e-30)
