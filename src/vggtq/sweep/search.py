"""A search over options instead of a grid: optuna proposes, runs answer, until so many trials are done.

Several objectives at once by the multi-objective tree-structured Parzen estimator (Ozaki et al., Multiobjective
Tree-Structured Parzen Estimator, JAIR 2022), as optuna's TPESampler has it. The study is a SQLite file below outputs/, so
that the same command continues a killed search: trials that were running are repeated, and runs that are measured already
answer from their records. Objectives are read from the records, whichever launcher ran the jobs. A run that failed is a
failed trial.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

from vggtq.errors import ConfigError, MissingExtraError, check_choice, did_you_mean
from vggtq.records.files import record_in

log = logging.getLogger(__name__)

DIRECTIONS = ("minimize", "maximize")
AGAIN = "again"  # attribute of a trial that repeats one that was under way when the search was killed


@dataclass
class Search:
    """hydra.sweeper of hydra/sweeper=search; its options are those of SearchConf."""

    study: str
    folder: str
    trials: int
    at_a_time: int
    seed: int
    objectives: Mapping[str, str]
    params: Mapping[str, str]

    def __post_init__(self) -> None:
        if find_spec("optuna") is None:
            raise MissingExtraError(
                "hydra/sweeper=search needs a package that is not installed: pip install 'vggtq[search]'"
            )
        if self.trials < 1 or self.at_a_time < 1:
            raise ConfigError(
                f"hydra.sweeper: trials={self.trials} at_a_time={self.at_a_time}; at least 1 of each is needed"
            )
        _check_objectives(self.objectives)
        self.objectives = dict(self.objectives)

    def run(self, arguments: Sequence[str], launcher: Any, config_loader: Any) -> None:
        """Launches trials, `at_a_time` of them in a batch, until the study has as many as asked for."""
        parser = OverridesParser.create(config_loader=config_loader)
        given = [f"{key}={value}" for key, value in self.params.items()]
        space, fixed = space_of(parser.parse_overrides([*given, *arguments]))
        with self._locked():
            study = self._study()
            jobs = 0
            while (missing := self.trials - _count(study)) > 0:
                trials = [study.ask(space) for _ in range(min(missing, self.at_a_time))]
                overrides = [[*fixed, *(f"{key}={value}" for key, value in t.params.items())] for t in trials]
                try:
                    returns = launcher.launch(overrides, initial_job_idx=jobs)
                except Exception:  # of Hydra or the launcher: asking again would not help
                    for trial in trials:
                        _tell(study, trial, None)
                    raise
                for trial, answer in zip(trials, returns, strict=True):
                    _tell(study, trial, self._values(answer))
                jobs += len(trials)
            _print_front(study, list(self.objectives))

    def _study(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=f"sqlite:///{Path(self.folder) / self.study}.db",
            study_name=self.study,
            directions=[optuna.study.StudyDirection[goal.upper()] for goal in self.objectives.values()],
            load_if_exists=True,
        )
        known = study.user_attrs.get("objectives", self.objectives)
        if known != self.objectives:
            raise ConfigError(
                f"hydra.sweeper.study={self.study} has the objectives {known}; choose another name for a new study"
            )
        study.set_user_attr("objectives", self.objectives)
        _ask_again(study)
        trials = len(study.trials)
        # Another seed in each start: the same one would propose the same again.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + trials)
        if trials:
            log.info("study %s goes on: %d of %d trials are done", self.study, _count(study), self.trials)
        return study

    @contextmanager
    def _locked(self) -> Iterator[None]:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(self.folder) / f"{self.study}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"hydra.sweeper.study={self.study}: another process is searching in it; choose another name, or "
                "hydra.sweeper.at_a_time for trials beside each other"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _values(self, answer: JobReturn) -> list[float] | None:
        from vggtq.report import record_row

        record = record_in(Path(answer.hydra_cfg.hydra.runtime.output_dir)) if answer.hydra_cfg else None
        if record is None or record.status != "ok":
            return None
        row = record_row(record)
        values = [row.get(name) for name in self.objectives]
        known = [float(value) for value in values if value is not None]
        return known if len(known) == len(values) else None


def space_of(overrides: Sequence[Override]) -> tuple[dict[str, Any], list[str]]:
    """Distributions of the swept options, and the others as they were typed; the last of each option counts.

    Lists, choice(…) and range(…) are categories; interval(a, b) is an interval, int(interval(a, b)) one of integers, and
    tag(log, interval(a, b)) a logarithmic one.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_interval_sweep():
            interval: Any = override.value()
            whole = isinstance(interval.start, int) and isinstance(interval.end, int)
            kind = IntDistribution if whole else FloatDistribution
            space[key] = kind(interval.start, interval.end, log="log" in interval.tags)
        elif override.is_sweep_override():
            space[key] = CategoricalDistribution(list(override.sweep_string_iterator()))
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise ConfigError("nothing to search: give an option several values, e.g. group_size=32,64,128")
    return space, list(fixed.values())


def _check_objectives(objectives: Mapping[str, str]) -> None:
    from vggtq.report import columns

    known = columns()
    for name, direction in objectives.items():
        if name not in known:
            raise ConfigError(
                f"hydra.sweeper.objectives.{name} is no column of the report{did_you_mean(name, known)}"
            )
        check_choice(f"hydra.sweeper.objectives.{name}", direction, DIRECTIONS)


def _ask_again(study: Any) -> None:
    """Marks jobs that a killed search left running as failed; their options are the next to be tried."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={AGAIN: True})


def _count(study: Any) -> int:
    """Trials that are done, well or badly; one that was killed and its repetition are one."""
    return sum(trial.state.is_finished() - (AGAIN in trial.user_attrs) for trial in study.get_trials())


def _tell(study: Any, trial: Any, values: list[float] | None) -> None:
    from optuna.trial import TrialState

    if values is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, values)


def _print_front(study: Any, names: list[str]) -> None:
    """The trials that no other one beats in all objectives, each once."""
    front = {tuple(trial.params.items()): trial.values for trial in study.best_trials}
    print(f"{len(front)} of {_count(study)} trials are Pareto-optimal:")
    for params, values in sorted(front.items(), key=lambda item: item[1]):
        numbers = "  ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
        print(f"  {numbers}  {' '.join(f'{key}={value}' for key, value in params)}")
