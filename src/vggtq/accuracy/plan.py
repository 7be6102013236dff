"""The plan behind docs/accuracy.md: the rows, models, seeds and requirements of conf/accuracy.yaml, and the
runs they need.

A row is the part of a command line of `vggtq.run` that follows `+experiment=accuracy`. Its runs are found again
by the hash of their configuration. Rows that look at no data are run with a single calibration seed, because
the seed changes nothing there.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggtq.accuracy.measures import COLUMNS
from vggtq.config.compose import CONF, compose
from vggtq.config.messages import read_table
from vggtq.config.names import plain, run_name
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, check_choice

FILE = CONF / "accuracy.yaml"
EXPERIMENT = "+experiment=accuracy"


@dataclass
class Row:
    """run: overrides in one line. nearest: the row whose output error and lost AUC@30 this one is compared with.

    seeds: instead of the plan's, for rows that take long.
    """

    run: str
    nearest: str | None = None
    seeds: list[int] = field(default_factory=list)


@dataclass
class Requirement:
    """`measure` of `rows` on `models` keeps a bound, for every row or for the best one. within: on either side of 0.

    against: the row that they are compared with, instead of the nearest of each.
    """

    what: str
    rows: list[str]
    measure: str
    against: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    within: float | None = None
    best_row: bool = False
    models: list[str] = field(default_factory=list)  # none: all of them

    @property
    def bound(self) -> str:
        """As tables write it."""
        return next(f"{sign} {limit:g}" for sign, limit in self.limits.items() if limit is not None)

    def excess(self, value: float) -> float:
        """By how much the bound is broken, negative where it is kept."""
        if self.at_most is not None:
            return value - self.at_most
        return abs(value) - self.within if self.within is not None else (self.at_least or 0.0) - value

    @property
    def limits(self) -> dict[str, float | None]:
        return {"≤": self.at_most, "≥": self.at_least, "±": self.within}


@dataclass
class Contrast:
    """Two rows that ought to be told apart. against: another row; null: FP32."""

    row: str
    against: str | None = None
    models: list[str] = field(default_factory=list)  # none: all of them


@dataclass
class Plan:
    """The whole of conf/accuracy.yaml."""

    models: list[str]
    seeds: list[int]
    rows: dict[str, Row]
    requirements: list[Requirement] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            if row.nearest is not None:
                self._check_rows(f"rows.{name}.nearest", [row.nearest])
        for index, contrast in enumerate(self.contrasts):
            self._check_rows(f"contrasts[{index}]", [contrast.row, *filter(None, [contrast.against])])
        for index, requirement in enumerate(self.requirements):
            where = f"requirements[{index}]"
            self._check_rows(f"{where}.rows", requirement.rows)
            if requirement.against is not None:
                self._check_rows(f"{where}.against", [requirement.against])
            check_choice(f"{where}.measure", requirement.measure, COLUMNS)
            if sum(limit is not None for limit in requirement.limits.values()) != 1:
                raise ConfigError(f"{where}: give one bound, at_most, at_least or within")

    def _check_rows(self, key: str, names: list[str]) -> None:
        for name in names:
            check_choice(key, name, self.rows, f"; rows are those of {FILE.name}")


@dataclass(frozen=True)
class Job:
    """One run. config: resolved, whose hash the record carries; folder: where the sweep puts it."""

    row: str
    model: str
    seed: int
    config: dict[str, Any]
    folder: Path


def chosen_rows(plan: Plan, names: list[str]) -> list[str]:
    """The named rows, or all of them. Raises ConfigError."""
    for name in names:
        check_choice("rows", name, plan.rows)
    return names or list(plan.rows)


def read_plan(path: Path = FILE) -> Plan:
    """Raises ConfigError."""
    return read_table(path, Plan)


def jobs_of(plan: Plan, name: str, extra: list[str], runs: Path) -> list[Job]:
    """The runs of one row. extra: overrides that all rows get."""
    jobs = []
    for model in plan.models:
        for seed in plan.rows[name].seeds or plan.seeds:
            cfg = compose([*overrides(plan, name, extra), f"model={model}", f"calibration.seed={seed}"])
            jobs.append(Job(name, model, seed, plain(cfg), runs / run_name(_root_=cfg)))
            if not validated(cfg).scheme.needs_calibration:
                break
    return jobs


def overrides(plan: Plan, name: str, extra: list[str]) -> list[str]:
    """The command line of a row, without its sweep over models and seeds."""
    return [EXPERIMENT, *shlex.split(plan.rows[name].run), *extra]


def sweep_of(plan: Plan, name: str, extra: list[str], jobs: Sequence[Job]) -> list[str]:
    """The arguments of `vggtq run` that make all runs of a row."""
    seeds = ",".join(str(seed) for seed in sorted({job.seed for job in jobs}))
    return [*overrides(plan, name, extra), f"model={','.join(plan.models)}", f"calibration.seed={seeds}"]
