"""One case of the benchmark: everything that computes the same, timed in turn, becomes one row each."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vggtq.measure import interleaved_latency, quartiles

FP32, BF16 = "FP32", "BF16"
SLOW = 5.0  # whoever takes 5 times as long as FP32 gets 3 rounds: its place is clear
INSTALL = "not installed: pip install 'vggtq[bench]'"
Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """Something that computes a case. resident_bytes: of its weights in memory, None where it does not tell."""

    name: str
    call: Callable[[], Tensor]
    backend: str
    resident_bytes: int | None
    simulated: bool = False  # it dequantizes the whole weight and multiplies in float
    tool: str = "vggtq"


@dataclass(frozen=True)
class Missing:
    """A candidate that does not run here, and why."""

    name: str
    tool: str
    reason: str


def rows_of(
    case: Row,
    candidates: Sequence[Candidate | Missing],
    rounds: int,
    device: torch.device,
    base: Tensor | None = None,
) -> list[Row]:
    """Rows of one case; the first candidate is FP32, whose output is exact. `case`: columns that all rows share.

    `base` is subtracted from outputs before they are compared: a residual block is judged by what it adds to its input.
    """
    # Not inference_mode, which some tools do not work in.
    with torch.no_grad():
        outputs: dict[str, Tensor] = {}
        candidates = [_entered(candidate, outputs) for candidate in candidates]
        running = [c for c in candidates if isinstance(c, Candidate)]
        milliseconds = interleaved_latency({c.name: c.call for c in running}, rounds, 1, device, SLOW)
    exact = outputs[FP32] if base is None else outputs[FP32] - base
    rows = []
    for candidate in candidates:
        row = case | {"name": candidate.name, "tool": candidate.tool}
        if isinstance(candidate, Missing):
            rows.append(row | {"skipped": candidate.reason})
            continue
        output = outputs[candidate.name] if base is None else outputs[candidate.name] - base
        row |= {"backend": candidate.backend, "simulated": candidate.simulated}
        row |= {"resident_bytes": candidate.resident_bytes, "ms": milliseconds[candidate.name]}
        row["relative_error"] = float((output - exact).norm() / exact.norm())
        rows.append(row | {"speedup": _ratios(milliseconds, candidate.name)})
    return rows


def _entered(candidate: Candidate | Missing, outputs: dict[str, Tensor]) -> Candidate | Missing:
    """Computes and enters its output; what another tool raises becomes the reason why it is missing."""
    if isinstance(candidate, Missing):
        return candidate
    try:
        outputs[candidate.name] = candidate.call().float()
    except Exception as error:
        if candidate.tool == "vggtq" or candidate.name in (FP32, BF16):
            raise
        return Missing(candidate.name, candidate.tool, reason_of(error))
    return candidate


def reason_of(error: Exception) -> str:
    """Type and first line of another tool's error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def _ratios(milliseconds: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """Against each reference: the median of the ratios within rounds, and their quartiles."""
    found = {}
    for reference in (FP32, BF16):
        if reference in milliseconds:
            pairs = zip(
                milliseconds[reference], milliseconds[name], strict=False
            )  # slow ones have fewer rounds
            ratios = [r / own for r, own in pairs]
            low, high = quartiles(ratios)
            found[reference.lower()] = {"median": statistics.median(ratios), "q25": low, "q75": high}
    return found
