"""`vggtq train`: Hydra composes a training from conf/train.yaml; rendering and learning take turns."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vggtq.config.compose import CONF
from vggtq.config.messages import explain, keys_of
from vggtq.errors import ConfigError
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option, unknown
from vggtq.train.config import TrainConfig
from vggtq.train.evaluate import export
from vggtq.train.trainer import train

RECIPE = CONF / "train.yaml"
ConfigStore.instance().store(name="train_schema", node=TrainConfig)


@dataclass
class Options:
    """The configuration of a training."""

    overrides: list[str] = option("any key of the recipe below, e.g. steps=100 pool.scenes=48", [], rest=True)


def _keys() -> list[str]:
    recipe = OmegaConf.load(RECIPE)
    assert isinstance(recipe, DictConfig)
    return keys_of(recipe)


COMMAND = Command(
    "train",
    Options,
    ("folder=outputs/train export=vggt_mini.safetensors", "dataset=rooms start=package:vggt_mini"),
    lambda _argv: (
        f"""\
Scenes are rendered while it trains and leave the pool again. Every few minutes, and when interrupted, a checkpoint is
written; the same command continues from it. A warm restart, start=SOURCE, has the optimizer's state again within a few
hundred steps.

{RECIPE.read_text("utf-8").partition("_self_")[2].partition("hydra:")[0].strip()}
"""
    ),
    lambda _words: [f"{key}=" for key in _keys()],
)


def _work(options: Options) -> None:
    arguments, flags = get_args_parser().parse_known_args(options.overrides)
    known = _keys()
    for argument in (*flags, *arguments.overrides):
        key, equals, _ = argument.partition("=")
        if not (key in known and equals) and not argument.startswith(("+", "~", "hydra")):
            raise ConfigError(unknown(argument, known))
    composed: list[DictConfig] = []
    # Hydra takes dataset=… and device=… for the groups of vggtq run, which have the same names.
    own = [a for a in arguments.overrides if (key := a.partition("=")[0]) in known and (CONF / key).is_dir()]
    sys.argv[1:] = [argument for argument in options.overrides if argument not in own]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(
            lambda config: composed.append(config)
        )()
        for config in composed:
            config.merge_with_dotlist(own)
        configs = [OmegaConf.to_object(config) for config in composed]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    for training in configs:
        assert isinstance(training, TrainConfig)
        trainer = train(training)
        if training.export:
            export(trainer.average, Path(training.export))


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
