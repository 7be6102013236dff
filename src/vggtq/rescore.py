"""`python -m vggtq.rescore`: fidelity and geometry of earlier runs by today's code, from their predictions, without a model."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vggtq.command_line import execute, log_lines, one_of, parse
from vggtq.config import config_hash
from vggtq.errors import DataError
from vggtq.record import PREVIOUS_NAME, write_record
from vggtq.report.records import dig, find_records, read_record

HELP = f"""\
Score the predictions of earlier runs again, without running a model.

  python -m vggtq.rescore [folders…] [key=value…]

folders          where to look for runs, at any depth; without any: outputs
depth_alignment  median, lstsq or none; default: what the run had
points_icp       true or false; default: what the run had

Runs keep what they predicted with save_predictions=true. Fidelity and geometry are computed anew; everything else in the
record stays. The record before stays as {PREVIOUS_NAME}; `rescored` says when and by which code.

  python -m vggtq.run scheme=int4_group save_predictions=true
  python -m vggtq.rescore outputs/runs depth_alignment=lstsq
"""
log = logging.getLogger(__name__)


@dataclass
class Options:
    """Which runs, and what to do differently; see HELP."""

    folders: list[str] = field(default_factory=lambda: ["outputs"], metadata={"positional": True})
    depth_alignment: str | None = None
    points_icp: bool | None = None

    def __post_init__(self) -> None:
        if self.depth_alignment is not None:
            one_of("depth_alignment", self.depth_alignment, ("median", "lstsq", "none"))

    @property
    def changes(self) -> dict[str, Any]:
        """The options that were given, by their key in a run's configuration."""
        known = {"depth_alignment": self.depth_alignment, "points_icp": self.points_icp}
        return {key: value for key, value in known.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error or nothing to score, 130 or 143 interrupted."""
    return execute((sys.argv[1:] if argv is None else argv) or ["outputs"], HELP, _work)


def _work(argv: Sequence[str]) -> None:
    options = parse(argv, Options, positional="folders")
    folders = [Path(folder) for folder in options.folders]
    if missing := [folder for folder in folders if not folder.exists()]:
        raise DataError(f"folder {missing[0]} does not exist; name folders that hold runs, such as outputs")
    with log_lines():
        rescore(folders, options.changes)


def rescore(folders: Sequence[Path], changes: dict[str, Any]) -> list[Path]:
    """Scores every run below `folders` that kept its predictions; returns their records. DataError if any could not be."""
    done, without, problems = [], 0, []
    for path in find_records(folders):
        try:
            record = read_record(path)
            if record["status"] != "ok" or not record["predictions"]:
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
    if not done:
        raise DataError("no run kept its predictions; make some: python -m vggtq.run save_predictions=true")
    return done


def rescored(record: dict[str, Any], folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The record with its predictions scored by this code, and with `changes` in its configuration."""
    import torch

    from vggtq.environment import environment
    from vggtq.predictions import read_predictions
    from vggtq.scoring import Scores

    config = record["config"] | changes
    scores = Scores(config["depth_alignment"], config["points_icp"])
    for scene in read_predictions(folder / record["predictions"]["file"]):
        scores.add(scene.name, scene.quantized, scene.reference, scene.truth, scene.size_hw)
    now = environment(torch.device("cpu"), 0)
    code = {key: now[key] for key in ("vggtq", "commit", "dirty", "code")}
    entry = {"when": datetime.now(UTC).isoformat(timespec="milliseconds"), **code, "changes": changes}
    earlier = dig(record, "rescored", "earlier") or {key: dig(record, "environment", key) for key in code}
    record |= {"config": config, "config_hash": config_hash(config), "command": _command(record, changes)}
    return record | scores.result() | {"rescored": entry | {"earlier": earlier}}


def _command(record: dict[str, Any], changes: dict[str, Any]) -> str:
    """What repeats the run as it is scored now."""
    kept = [word for word in shlex.split(record["command"] or "") if word.partition("=")[0] not in changes]
    spelled = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in changes.items()
    ]
    return shlex.join([*kept, *spelled])


if __name__ == "__main__":
    sys.exit(main())
