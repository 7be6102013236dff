"""The rows of the accuracy tables and the verdicts on its requirements, from finished records."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vggtq.accuracy.measures import COLUMNS, TOLD_BY, Estimate, Measured, difference
from vggtq.accuracy.plan import Contrast, Plan, Requirement
from vggtq.metrics.interval import ERROR_RATE, Interval, holm

Table = Mapping[tuple[str, str], Measured]  # (row, model)


@dataclass(frozen=True)
class Line:
    """One row on one model."""

    row: str
    model: str
    label: str
    seeds: int
    scenes: int
    values: dict[str, Estimate]  # by key of COLUMNS


def line(plan: Plan, table: Table, row: str, model: str) -> Line:
    own = table[row, model]
    nearest = _nearest(table, plan.rows[row].nearest, model)
    values = {key: column.of(own, nearest) for key, column in COLUMNS.items()}
    scenes = len(own.records[0].fidelity_scenes or ())
    return Line(row, model, own.rows[0]["label"], len(own.records), scenes, values)


def _nearest(table: Table, row: str | None, model: str) -> Measured | None:
    return None if row is None else table.get((row, model))


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
    present = [row for row in requirement.rows if (row, model) in table]
    if not present or (len(present) < len(requirement.rows) and not requirement.best_row):
        return Verdict(requirement.what, model, None, Estimate(math.nan), requirement.bound, None)
    found = {}
    for row in present:
        nearest = _nearest(table, requirement.against or plan.rows[row].nearest, model)
        found[row] = COLUMNS[requirement.measure].of(table[row, model], nearest)
    choose = min if requirement.best_row else max
    row = choose(found, key=lambda name: requirement.excess(found[name].value))
    estimate = found[row]
    if math.isnan(estimate.value):
        return Verdict(requirement.what, model, row, estimate, requirement.bound, None)
    met = requirement.excess(estimate.value) <= 0
    ends = [end for end in (estimate.low, estimate.high) if not math.isnan(end)]
    agree = all((requirement.excess(end) <= 0) == met for end in ends)
    return Verdict(requirement.what, model, row, estimate, requirement.bound, met, agree)


@dataclass(frozen=True)
class Told:
    """The metric that tells two rows apart best. p: after Holm's correction for all contrasts and metrics of the model."""

    contrast: Contrast
    model: str
    metric: str
    difference: Interval
    p: float

    @property
    def apart(self) -> bool:
        return self.p <= ERROR_RATE


def told_apart(plan: Plan, table: Table, model: str) -> list[Told]:
    """One for each contrast of the plan whose rows were measured."""
    found = []
    for contrast in plan.contrasts:
        names = [contrast.row, *filter(None, [contrast.against])]
        if model in (contrast.models or plan.models) and all((name, model) in table for name in names):
            rows = [table[name, model] for name in names]
            other = rows[1] if len(rows) > 1 else None
            found += [(contrast, metric, difference(rows[0], other, metric)) for metric in TOLD_BY]
    known = [(c, m, d, d.p) for c, m, d in found if d.p is not None]
    adjusted = holm([p for *_, p in known])
    best: dict[int, Told] = {}
    for (contrast, metric, interval, _), p in zip(known, adjusted, strict=True):
        if id(contrast) not in best or p < best[id(contrast)].p:
            best[id(contrast)] = Told(contrast, model, metric, interval, p)
    return list(best.values())
