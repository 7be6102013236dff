"""One case of the benchmark: everything that computes the same, timed in turn, becomes one row each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vggtq.machine.timing import OtherWork, interleaved_latency, quartiles, timed_ms

FP32, BF16 = "FP32", "BF16"
SLOW = 6.0  # times FP32's
ROUNDS = (3, 25)
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
    seconds: float,
    device: torch.device,
    base: Tensor | None = None,
) -> list[Row]:
    """Rows of one case; the first candidate is FP32, whose output is exact. `case`: columns that all rows share.

    As many rounds as `seconds` allow, within ROUNDS. `base` is subtracted from outputs before they are compared: a residual
    block is judged by what it adds to its input.
    """
    # Not inference_mode, which some tools do not work in.
    with torch.no_grad():
        tried = [_tried(candidate, device) for candidate in candidates]
        running = [t for t in tried if isinstance(t, _Tried)]
        rounds = _rounds(running, seconds)
        with OtherWork() as others:
            calls = {t.candidate.name: t.candidate.call for t in running}
            milliseconds = interleaved_latency(calls, rounds, device)
    case = case | {"others_cpu_share": others.share}
    exact = running[0].output if base is None else running[0].output - base
    rows = []
    for found in tried:
        if isinstance(found, Missing):
            rows.append(case | {"name": found.name, "tool": found.tool, "skipped": found.reason})
            continue
        own = found.candidate
        output = found.output if base is None else found.output - base
        error = float((output - exact).norm() / exact.norm())
        row = case | {"name": own.name, "tool": own.tool, "backend": own.backend, "simulated": own.simulated}
        row |= {"resident_bytes": own.resident_bytes, "relative_error": error, "ms": milliseconds[own.name]}
        rows.append(row | {"speedup": _ratios(milliseconds, own.name)})
    return rows


@dataclass(frozen=True)
class _Tried:
    """A candidate that has run once, which warmed it up. ms: how long that took."""

    candidate: Candidate
    output: Tensor
    ms: float


def _tried(candidate: Candidate | Missing, device: torch.device) -> "_Tried | Missing":
    """Runs it once; what another tool raises becomes the reason why it is missing."""
    if isinstance(candidate, Missing):
        return candidate
    try:
        output = candidate.call().float()
    except Exception as error:
        if candidate.tool == "vggtq" or candidate.name in (FP32, BF16):
            raise
        return Missing(candidate.name, candidate.tool, reason_of(error))
    return _Tried(candidate, output, timed_ms(candidate.call, device))


def _rounds(tried: Sequence[_Tried], seconds: float) -> dict[str, int]:
    """By name. A slow alternative runs once, because its place in the order is clear then."""
    slow = {t.candidate.name for t in tried if t.ms > SLOW * tried[0].ms}
    round_ms = sum(t.ms for t in tried if t.candidate.name not in slow)
    fewest, most = ROUNDS
    rounds = min(max(int(1e3 * seconds / round_ms), fewest), most)
    return {t.candidate.name: 1 if t.candidate.name in slow else rounds for t in tried}


def reason_of(error: Exception) -> str:
    """Type and first line of another tool's error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def _ratios(milliseconds: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """Against each reference: the median of the ratios within rounds, and their quartiles."""
    found = {}
    for reference in (FP32, BF16):
        if reference in milliseconds:
            pairs = zip(milliseconds[reference], milliseconds[name], strict=False)  # slow ones have one round
            ratios = [r / own for r, own in pairs]
            low, median, high = quartiles(ratios)
            found[reference.lower()] = {"median": median, "q25": low, "q75": high}
    return found
