"""The rows of the accuracy tables and the verdicts on its requirements, from finished records."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vggtq.accuracy.measures import (
    MEASURES,
    Estimate,
    Measured,
    Record,
    abs_rel_change,
    auc_change,
    error_ratio,
    recovered_auc,
    worst_geometry_change,
)
from vggtq.accuracy.plan import Plan, Requirement
from vggtq.report.frame import record_row

Table = Mapping[tuple[str, str], Measured]  # (row, model)


@dataclass(frozen=True)
class Line:
    """One row on one model. Arrays per seed became (mean, lowest, highest)."""

    row: str
    model: str
    label: str
    seeds: int
    rooms: int
    mib: float
    relative_error: Estimate  # mean over the five outputs; the interval is the range over seeds
    output_mse: Estimate  # likewise
    rotation_deg: Estimate  # likewise
    error_ratio: Estimate | None  # to the row's nearest
    auc_change: Estimate
    recovered_auc: Estimate | None
    abs_rel_change: Estimate
    geometry_change: Estimate
    quantize_s: float


def line(plan: Plan, table: Table, row: str, model: str) -> Line:
    measured = table[row, model]
    records, against = measured.records, plan.rows[row].nearest
    nearest = None if against is None else table.get((against, model))
    return Line(
        row,
        model,
        records[0]["scheme"]["label"],
        len(records),
        len(records[0]["fidelity_scenes"]),
        records[0]["size"]["stored_bytes"] / 2**20,
        _over_seeds(measured, lambda record: record_row(dict(record))["mean_relative_error"]),
        _over_seeds(measured, lambda record: record["fidelity"]["world_points"]["mse"]),
        _over_seeds(measured, lambda record: record["fidelity"]["pose"]["rotation_deg_mean"]),
        error_ratio(measured, nearest) if nearest else None,
        auc_change(measured),
        recovered_auc(measured, nearest) if nearest else None,
        abs_rel_change(measured),
        worst_geometry_change(measured),
        float(measured.per_seed(lambda record: record["seconds"]["quantize"]).mean()),
    )


def _over_seeds(measured: Measured, value: Callable[[Record], float]) -> Estimate:
    values = measured.per_seed(value)
    return Estimate(float(values.mean()), float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Verdict:
    """One requirement on one model. row: the one that decides, the worst or, where any will do, the best."""

    what: str
    model: str
    row: str | None
    found: Estimate
    bound: str
    met: bool | None  # None: not measured
    certain: bool = True  # whether the interval lies on one side of the bound


def verdicts(plan: Plan, table: Table) -> list[Verdict]:
    return [
        _verdict(plan, table, requirement, model)
        for requirement in plan.requirements
        for model in requirement.models or plan.models
    ]


def _verdict(plan: Plan, table: Table, requirement: Requirement, model: str) -> Verdict:
    bound = _bound(requirement)
    present = [row for row in requirement.rows if (row, model) in table]
    if not present or (len(present) < len(requirement.rows) and not requirement.best_row):
        return Verdict(requirement.what, model, None, Estimate(math.nan), bound, None)
    found = {}
    for row in present:
        against = requirement.against or plan.rows[row].nearest
        nearest = None if against is None else table.get((against, model))
        found[row] = MEASURES[requirement.measure](table[row, model], nearest)
    choose = min if requirement.best_row else max
    row = choose(found, key=lambda name: _excess(requirement, found[name].value))
    estimate = found[row]
    if math.isnan(estimate.value):
        return Verdict(requirement.what, model, row, estimate, bound, None)
    met = _excess(requirement, estimate.value) <= 0
    ends = [end for end in (estimate.low, estimate.high) if not math.isnan(end)]
    agree = all((_excess(requirement, end) <= 0) == met for end in ends)
    return Verdict(requirement.what, model, row, estimate, bound, met, agree)


def _excess(requirement: Requirement, value: float) -> float:
    """By how much the bound is broken, negative where it is kept."""
    if requirement.at_most is not None:
        return value - requirement.at_most
    if requirement.at_least is not None:
        return requirement.at_least - value
    assert requirement.within is not None
    return abs(value) - requirement.within


def _bound(requirement: Requirement) -> str:
    if requirement.at_most is not None:
        return f"≤ {requirement.at_most:g}"
    return f"≥ {requirement.at_least:g}" if requirement.at_least is not None else f"± {requirement.within:g}"
