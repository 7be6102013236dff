"""Recommendations for five needs: each applies a chain of rules, then an order, and is explained with its numbers.

Every need asks for a run that succeeded, whose outputs are free of NaN and infinity, and that is smaller than
FP32. Then:

production  stored bytes, among rows on real kernels whose loss is acceptable. No headline score against ground truth is
            measurably worse than FP32's by more than TOLERANCE; and either every one of them is shown to lose less than that,
            or, where the scenes cannot tell, every output is graded excellent (else good). Withheld where FP32 itself has an
            AUC@30 below LEAST_AUC on these data, since nothing can be lost there
smallest    stored bytes
accuracy    mean_relative_error
fastest     speed-up over FP32, real kernels only, lower quartile above 1.0
balanced    0.4·compression + 0.4·accuracy + 0.2·speed, among rows without a poor output if there are any

The three terms of the balanced score run from 0 to 1 on fixed scales, so that adding a row never reorders others:
log₂(compression)/4 (1 = 16×), −log₁₀(error)/4 (1 = an error of 10⁻⁴), log₂(speed-up) (1 = 2×; 0 unless measured faster).
Equal rows are decided by error, bytes, label and hash, in this order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vggtq.metrics.metric import GRADES
from vggtq.metrics.table import metrics
from vggtq.report.rows.row import Row

NEEDS = ("production", "smallest", "accuracy", "fastest", "balanced")
WEIGHTS = {"compression": 0.4, "accuracy": 0.4, "speed": 0.2}
TOLERANCE = 0.01  # of a headline score, in which a loss is acceptable for production
EXACT = 1e-5  # mean relative error up to which a run has computed what FP32 computes: sums in another order, no more
LEAST_AUC = 0.05  # AUC@30 of FP32 below which the data say nothing about production
LIMITS = {"tolerance": TOLERANCE, "least": LEAST_AUC}  # as the texts name them
# The verdict of ground truth on a row's loss and TOLERANCE; open: these scenes cannot decide it.
WITHIN, BEYOND, OPEN = "within", "beyond", "open"

Rule = tuple[str, Callable[[Row], bool]]  # key of its name, and its condition on a row


@dataclass(frozen=True)
class Choice:
    """The row that meets a need, the number of candidates, and the rows that each rule left out.

    `basis` says how the row won: `first` by the rules, `second` by their relaxed form, `reference` because no
    compressed row qualifies and FP32 is what remains, `withheld` because FP32 itself fails, `none` without a winner.
    """

    need: str
    basis: str
    row: Row | None
    candidates: int
    excluded: dict[str, list[str]] = field(default_factory=dict)


def is_compressed(row: Row) -> bool:
    return (row["compression_vs_fp32"] or 0.0) > 1.0


def is_timed(row: Row) -> bool:
    """Timed against FP32 on kernels that compute what the scheme claims; unknown counts as simulated."""
    return row["fp32.speedup"] is not None and row["simulated"] is False


def speed_verdict(row: Row) -> str:
    """`faster`, `slower`, `same` (1.0 lies within the quartiles), `simulated` or `untimed`."""
    if row["fp32.speedup"] is None:
        return "untimed"
    if not is_timed(row):
        return "simulated"
    low, high = row["fp32.speedup_q25"], row["fp32.speedup_q75"]
    if low is not None and min(low, row["fp32.speedup"]) > 1.0:
        return "faster"
    return "slower" if high is not None and max(high, row["fp32.speedup"]) < 1.0 else "same"


def balanced_terms(row: Row) -> dict[str, float]:
    """The three terms of the balanced score, each 0 to 1, before weighting."""
    speed = math.log2(row["fp32.speedup"]) if speed_verdict(row) == "faster" else 0.0
    terms = {
        "compression": math.log2(row["compression_vs_fp32"]) / 4,
        "accuracy": -math.log10(max(row["mean_relative_error"], 1e-4)) / 4,
        "speed": speed,
    }
    return {name: min(max(term, 0.0), 1.0) for name, term in terms.items()}


def balanced_score(row: Row) -> float:
    return sum(WEIGHTS[name] * term for name, term in balanced_terms(row).items())


def _grade_at_least(grade: str) -> Callable[[Row], bool]:
    worst = GRADES.index(grade)
    return lambda row: row["grade"] is not None and GRADES.index(row["grade"]) <= worst


_SOUND: tuple[Rule, ...] = (
    ("rule.ok", lambda row: row["status"] == "ok"),
    ("rule.finite", lambda row: not row["non_finite"]),
)


def fp32_works(row: Row) -> bool:
    """Whether FP32 finds the cameras of these data, or their ground truth is unknown."""
    auc = row.get("geometry.reference.pose.auc_30")
    return auc is None or auc >= LEAST_AUC


_WORKS: Rule = ("rule.works", fp32_works)
_COMPRESSED: tuple[Rule, ...] = (*_SOUND, ("rule.compressed", is_compressed))
_SIZED: Rule = ("rule.size", lambda row: row["stored_bytes"] is not None)
_REAL: Rule = ("rule.real", lambda row: row["simulated"] is False)
_LOSS: Rule = ("rule.loss", lambda row: row["loss"] != BEYOND)
_SHOWN: Rule = ("rule.shown", lambda row: row["loss"] == WITHIN or _grade_at_least("excellent")(row))
_ERROR: Rule = ("rule.error", lambda row: row["mean_relative_error"] is not None)
_GRADED: Rule = ("rule.grade", lambda row: row["grade"] is not None)

_RULES: dict[str, tuple[tuple[Rule, ...], ...]] = {
    "production": (
        (*_COMPRESSED, _WORKS, _SIZED, _REAL, _LOSS, _SHOWN),
        (*_COMPRESSED, _WORKS, _SIZED, _REAL, _LOSS, _GRADED, ("rule.good", _grade_at_least("good"))),
    ),
    "smallest": ((*_COMPRESSED, _SIZED),),
    "accuracy": ((*_COMPRESSED, _ERROR),),
    "fastest": (
        (
            *_COMPRESSED,
            ("rule.timed", lambda row: row["fp32.speedup"] is not None),
            ("rule.real", is_timed),
            ("rule.faster", lambda row: speed_verdict(row) == "faster"),
        ),
    ),
    "balanced": (
        (*_COMPRESSED, _ERROR, _GRADED, ("rule.not_poor", _grade_at_least("acceptable"))),
        (*_COMPRESSED, _ERROR),
    ),
}


def _best(column: str) -> Callable[[Row], float]:
    (direction,) = (metric.direction for metric in metrics() if column in metric.columns)
    return lambda row: -direction * row[column]


_FIRST: dict[str, Callable[[Row], float]] = {  # the smallest value wins
    "production": _best("stored_bytes"),
    "smallest": _best("stored_bytes"),
    "accuracy": _best("mean_relative_error"),
    "fastest": _best("fp32.speedup"),
    "balanced": lambda row: -balanced_score(row),
}
_BASES = ("first", "second")
_REFERENCE_MAY_WIN = ("production", "smallest", "balanced")


def recommend(rows: Sequence[Row]) -> list[Choice]:
    """One choice for each of `NEEDS`; the rows must be of one comparison group."""
    return [choose(need, rows) for need in NEEDS]


def choose(need: str, rows: Sequence[Row]) -> Choice:
    """Apply the rules of `need`, then their relaxed form, then look whether FP32 may stand in."""
    excluded: dict[str, list[str]] = {}
    for basis, rules in zip(_BASES, _RULES[need], strict=False):
        candidates, left_out = _apply(rules, rows)
        excluded = left_out
        if candidates:
            return Choice(need, basis, _ranked(need, candidates)[0], len(candidates), excluded)
    if need == "production" and rows and not any(map(fp32_works, rows)):
        return Choice(need, "withheld", None, 0)
    reference = min((row for row in rows if is_reference(row)), key=_tie_break, default=None)
    if reference is not None and need in _REFERENCE_MAY_WIN:
        return Choice(need, "reference", reference, 0, excluded)
    return Choice(need, "none", None, 0, excluded)


def rankings(need: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Per basis the rows that qualify, best first; `choose` returns the first row of the first basis that has
    one.

    Each rule asks about one row alone, so that the choice among some of the rows is the first of them in these lists.
    """
    found = {
        basis: _ranked(need, _apply(rules, rows)[0])
        for basis, rules in zip(_BASES, _RULES[need], strict=False)
    }
    if need in _REFERENCE_MAY_WIN:
        able = [row for row in rows if is_reference(row) and (need != "production" or fp32_works(row))]
        found["reference"] = sorted(able, key=_tie_break)
    return found


def _ranked(need: str, candidates: Sequence[Row]) -> list[Row]:
    return sorted(candidates, key=lambda row: (_FIRST[need](row), *_tie_break(row)))


def is_reference(row: Row) -> bool:
    """The FP32 model itself: a sound run in which no layer was quantized, nothing got smaller and no attention was left out or
    rounded."""
    untouched = row["compression_vs_fp32"] is not None and not row["quantized_layers"]
    untouched &= (row["mean_relative_error"] or 0.0) <= EXACT
    return untouched and not is_compressed(row) and all(rule(row) for _, rule in _SOUND)


def _apply(rules: Sequence[Rule], rows: Sequence[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """The rows that pass, and per rule the titles of the rows that it was the first to leave out."""
    left, excluded = list(rows), {}
    for name, rule in rules:
        kept: list[Row] = []
        out: list[Row] = []
        for row in left:
            (kept if rule(row) else out).append(row)
        if out:
            excluded[name] = [row["title"] for row in out]
        left = kept
    return left, excluded


def _tie_break(row: Row) -> tuple[float, float, str, str]:
    error, size = row["mean_relative_error"], row["stored_bytes"]
    return (
        math.inf if error is None else error,
        math.inf if size is None else size,
        row["label"],
        row["config_hash"] or "",
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the `(compression, error)` points that no other beats on both, by rising compression.

    Equal points are all on the front; a point with a NaN never is.
    """
    valid = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    front: list[int] = []
    best, best_at = math.inf, math.nan
    for i in sorted(valid, key=lambda i: (-points[i][0], points[i][1])):
        compression, error = points[i]
        if error < best or (error == best and compression == best_at):
            front.append(i)
            best, best_at = error, compression
    return front[::-1]
