"""`hydra/sweeper=search`, for Hydra to find, which looks for plugins in the package hydra_plugins alone.

The work is done in vggtq.sweep.search. Nothing of hydra-optuna-sweeper is used: its last release (1.3.0, 2022) wants optuna
below 3 and SQLAlchemy below 2, runs its number of trials anew in every start, and never asks again for those that were killed.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConf:
    """trials: in all, those of earlier starts among them. objectives: columns of the report, minimize or maximize."""

    _target_: str = "hydra_plugins.vggtq_search.SearchSweeper"
    study: str = "search"
    folder: str = "outputs/search"
    trials: int = 30
    at_a_time: int = 1
    seed: int = 0
    objectives: dict[str, str] = field(
        default_factory=lambda: {"stored_bytes": "minimize", "mean_relative_error": "minimize"}
    )
    params: dict[str, str] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConf, provider="vggtq")


class SearchSweeper(Sweeper):
    """Asks optuna what to run next and tells it what came out."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        from vggtq.sweep.search import Search

        self._search = Search(**self._options)
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.launcher is not None and self.hydra_context is not None
        self._search.run(arguments, self.launcher, self.hydra_context.config_loader)
