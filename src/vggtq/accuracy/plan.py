"""What docs/accuracy.md is made of: the rows, models, seeds and requirements of conf/accuracy.yaml, and the runs they need.

A row is what stands on the command line of `vggtq.run` after `+experiment=accuracy`; its runs are found again by their
configuration's hash. Rows that look at no data are run with one calibration seed, for it changes nothing.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vggtq.accuracy.measures import MEASURES
from vggtq.config import CONF, compose, first_line, plain, run_name, validated
from vggtq.errors import ConfigError, did_you_mean

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


@dataclass
class Plan:
    """The whole of conf/accuracy.yaml."""

    models: list[str]
    seeds: list[int]
    rows: dict[str, Row]
    requirements: list[Requirement] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            if row.nearest is not None:
                self._check_row(f"rows.{name}.nearest", row.nearest)
        for index, requirement in enumerate(self.requirements):
            where = f"requirements[{index}]"
            for name in requirement.rows:
                self._check_row(f"{where}.rows", name)
            if requirement.against is not None:
                self._check_row(f"{where}.against", requirement.against)
            if requirement.measure not in MEASURES:
                near = did_you_mean(requirement.measure, MEASURES)
                raise ConfigError(
                    f"{where}.measure={requirement.measure} is not one of {', '.join(MEASURES)}{near}"
                )
            bounds = (requirement.at_most, requirement.at_least, requirement.within)
            if sum(bound is not None for bound in bounds) != 1:
                raise ConfigError(f"{where}: give one bound, at_most, at_least or within")

    def _check_row(self, key: str, name: str) -> None:
        if name not in self.rows:
            near = did_you_mean(name, self.rows)
            raise ConfigError(f"{key}={name} is not one of the rows{near}; add it to {FILE.name}")


@dataclass(frozen=True)
class Job:
    """One run. config: resolved, whose hash the record carries; folder: where the sweep puts it."""

    row: str
    model: str
    seed: int
    config: dict[str, Any]
    folder: Path


def read_plan(path: Path = FILE) -> Plan:
    """Raises ConfigError."""
    try:
        plan = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path.name}: {first_line(error)}") from error
    assert isinstance(plan, Plan)
    return plan


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
