"""Draws the log of a training: python -m vggtq.training.curves log.jsonl curve.png"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LOSSES = ("reference", "matching", "camera", "depth", "points")
QUALITY = {"abs_rel": "depth AbsRel", "auc_30": "AUC@30", "rra_15": "RRA@15", "point_error": "point error"}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records in order; of steps that an interrupted training repeated, only the last ones."""
    records: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        records = [r for r in records if r["step"] <= record["step"] and not _same(r, record)]
        records.append(record)
    return records


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["step"] == b["step"] and a.get("evaluation") == b.get("evaluation")


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Losses above, scores of the held-out calibration scenes at full spread below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for name in LOSSES:
        rows = [r for r in records if name in r]
        above.plot([r["step"] for r in rows], [r[name] for r in rows], label=name, linewidth=1)
    above.set(yscale="log", ylabel="training loss, unweighted")
    rows = [r for r in records if r.get("evaluation") == 1.0]
    for name, label in QUALITY.items():
        below.plot([r["step"] for r in rows], [r[name] for r in rows], label=label, marker=".", linewidth=1)
    below.set(xlabel="step", ylabel="12 calibration scenes", ylim=(0, 1))
    for axes in (above, below):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(read_log(Path(sys.argv[1])), Path(sys.argv[2]))
