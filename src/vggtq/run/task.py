"""The function that Hydra calls with a composed configuration. It imports torch only when it is called, so Hydra refuses a
misspelt option without waiting for torch.

Launchers import this module in every process that runs jobs, and find there what a configuration needs to be composed.
"""

from omegaconf import DictConfig

from vggtq.config.compose import register

register()

failures: list[str] = []  # why runs of this process failed


def task(config: DictConfig) -> None:
    """Measures, as `vggtq.run.job` does."""
    from vggtq.run.job import measured  # with numpy, pandas and torch, which take seconds to import

    measured(config)
