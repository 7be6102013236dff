"""`vggtq train curves log.jsonl curve.png`: draws the log of a training."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option

LOSSES = ("matching", "readout", "camera", "rotation", "direction", "depth", "points")
QUALITY = {
    "abs_rel": "depth AbsRel",
    "auc_30": "AUC@30",
    "rra_15": "RRA@15",
    "point_error": "point error",
    "auc_5": "AUC@5",
}


@dataclass
class Options:
    """The log to read and the picture to write."""

    log: str = option(
        "what the training wrote", words="LOG", missing="vggtq train curves log.jsonl curve.png"
    )
    picture: str = option("file to write", words="PICTURE", missing="vggtq train curves log.jsonl curve.png")


COMMAND = Command(
    "train curves",
    Options,
    ("outputs/train/log.jsonl curve.png", "log=outputs/train/log.jsonl picture=curve.png"),
)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records in order; of steps that an interrupted training repeated, only the last ones."""
    records: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        records = [r for r in records if r["step"] <= record["step"] and not _same(r, record)]
        records.append(record)
    return records


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["step"] == b["step"] and ("evaluation" in a) == ("evaluation" in b)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Losses above, scores of scenes of the calibration split below."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name in LOSSES:
        rows = [r for r in records if name in r]
        above.plot([r["step"] for r in rows], [r[name] for r in rows], label=name, linewidth=1)
    above.set_yscale("symlog", linthresh=0.02)  # the dense losses, weighed by their confidences, fall below 0
    above.set_ylabel("training loss, unweighted")
    rows = [r for r in records if "evaluation" in r]
    for name, label in QUALITY.items():
        below.plot([r["step"] for r in rows], [r[name] for r in rows], label=label, marker=".", linewidth=1)
    below.set(xlabel="step", ylabel="scenes of the calibration split", ylim=(0, 1))
    for axes in (above, below):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


main = entry(COMMAND, lambda options: draw(read_log(Path(options.log)), Path(options.picture)))

if __name__ == "__main__":
    sys.exit(main())
