"""`vggtq rescore`: fidelity and geometry of earlier runs by today's code, from their predictions, without a model."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vggtq.config.names import config_hash
from vggtq.config.schema import REPLACED
from vggtq.errors import ConfigError, DataError
from vggtq.machine.environment import Environment, environment
from vggtq.metrics.metric import ALIGNMENTS
from vggtq.plugins import load_plugins, missing_plugins, plugins_described
from vggtq.records.files import write_record
from vggtq.records.of_run import Code, RescoredEntry
from vggtq.records.plain import nothing
from vggtq.records.reading import find_records, read_record
from vggtq.records.schema import PREVIOUS_NAME, Record
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines
from vggtq.terminal.options import option

log = logging.getLogger("vggtq.rescore")  # run with -m, __name__ is another


@dataclass
class Options:
    """The runs to score again, and the settings to change."""

    folders: list[str] = option("where to look for runs, at any depth", ["outputs"], words="FOLDERS")
    depth_alignment: str | None = option(
        "how predicted depth is scaled before it meets ground truth; null: what the run had",
        None,
        choices=ALIGNMENTS,
    )
    points_icp: bool | None = option(
        "refine the alignment of point maps by ICP; null: what the run had", None
    )

    plugins: list[str] = option("modules of your own with further metrics, e.g. [my_methods]", [])

    @property
    def changes(self) -> dict[str, Any]:
        """The options that were given, by their key in a run's configuration."""
        known = {"depth_alignment": self.depth_alignment, "points_icp": self.points_icp}
        return {key: value for key, value in known.items() if value is not None}


COMMAND = Command(
    "rescore",
    Options,
    ("", "outputs/runs depth_alignment=lstsq"),
    f"""\
Runs keep what they predicted with vggtq run save_predictions=true. Fidelity and geometry are computed anew; everything else
in the record stays. The record before stays as {PREVIOUS_NAME}; `rescored` says when and by which code.
""",
)


def _work(options: Options) -> None:
    folders = [Path(folder) for folder in options.folders]
    if missing := [folder for folder in folders if not folder.exists()]:
        raise DataError(f"folder {missing[0]} does not exist; name folders that hold runs, such as outputs")
    load_plugins(options.plugins)
    with log_lines():
        rescore(folders, options.changes)


def rescore(folders: Sequence[Path], changes: dict[str, Any]) -> list[Path]:
    """Scores every run below `folders` that kept its predictions; returns their records. DataError if any could not be."""
    done, without, problems = [], 0, []
    for path in find_records(folders):
        try:
            record = read_record(path)
            if record.status != "ok" or not record.predictions:
                without += 1
                continue
            done.append(write_record(rescored(record, path.parent, changes), path.parent, keep_earlier=True))
            log.info("scored  %s", path)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
    if without:
        log.info("%d without predictions; save_predictions=true keeps them", without)
    if problems:
        raise DataError(f"{len(problems)} could not be scored: {'; '.join(problems)}")
    where = ", ".join(map(str, folders))
    if not done:
        raise DataError(
            f"no run below {where} kept its predictions; make some: vggtq run save_predictions=true"
        )
    return done


def rescored(record: Record, folder: Path, changes: dict[str, Any]) -> Record:
    """The record with its predictions scored by this code, and with `changes` in its configuration."""
    import torch

    from vggtq.metrics.point_options import Points
    from vggtq.metrics.scores import Scores
    from vggtq.records.predictions import read_predictions

    assert record.predictions is not None
    known = (record.environment.plugins if record.environment else None) or []
    if record.metrics and (missing := missing_plugins(known)):
        names = ", ".join(str(values.get("key")) for values in record.metrics)
        raise ConfigError(f"its metrics {names} come from plugins; add plugins=[{','.join(missing)}]")
    config = (record.config or {}) | changes
    scores = Scores(config["depth_alignment"], config["points_icp"], Points(**config.get("points", {})))
    for scene in read_predictions(folder / record.predictions.file):
        scores.add(scene.name, scene.quantized, scene.reference, scene.truth)
    now = _code(environment(torch.device("cpu"), 0))
    earlier = (
        record.rescored.earlier if record.rescored else _code(record.environment or nothing(Environment))
    )
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    plugins = plugins_described() or None
    record.rescored = RescoredEntry(when, **vars(now), changes=changes, earlier=earlier, plugins=plugins)
    record.command = _command(record, changes)
    record.config, record.config_hash = config, config_hash(config)
    scored = scores.result()
    record.fidelity, record.geometry = scored.fidelity, scored.geometry
    record.fidelity_scenes = scored.fidelity_scenes
    record.metrics = scored.metrics
    return record


def _code(environment: Environment) -> Code:
    return Code(environment.vggtq, environment.commit, environment.dirty, environment.code)


def _command(record: Record, changes: dict[str, Any]) -> str:
    """The command that repeats the run as it is scored now."""
    words = shlex.split(record.command or "")
    kept = [word for word in words if word.partition("=")[0] not in {*changes, *REPLACED}]
    spelled = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in changes.items()
    ]
    return shlex.join([*kept, *spelled])


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
