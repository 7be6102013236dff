"""Networks beside each other: groups that differ in weights, but saw the same scenes of the same data on the same device.

One row for each network and scheme. Every score is compared, scene by scene, with that of the first network in FP32; scenes are
the same where the data set, its settings, and the scenes' names are, whatever size a network wants its images in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggtq.metrics.interval import Interval, paired_interval
from vggtq.metrics.metric import TRUTH, Metric
from vggtq.metrics.results import score
from vggtq.metrics.table import metrics
from vggtq.records.plain import number
from vggtq.records.reading import read_record
from vggtq.report.rows.groups import Group
from vggtq.report.rows.recommend import is_reference
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.rows.sources import Source
from vggtq.report.rows.verdicts import verdicts

# How a network wants its images, which is no property of the scenes.
_OF_NETWORKS = ("size", "image_size", "patch_size", "mode", "_target_")
Scores = Mapping[str, Mapping[str, float | None]]  # scene -> metric -> value


@dataclass(frozen=True)
class Compared:
    """One metric of one row: its mean, the baseline's over the same scenes, their change, and what may be said of it."""

    value: float | None
    baseline: float | None
    change: Interval
    verdict: str | None


@dataclass(frozen=True)
class Networks:
    """One table. baseline: the network whose FP32 model the others are compared with."""

    baseline: str
    scenes: int
    metrics: list[Metric]
    rows: list[tuple[str, Row, dict[str, Compared]]]  # network, row, metric -> comparison


def networks_of(groups: Sequence[Group], sources: Sequence[Source]) -> list[Networks]:
    """A table for each set of scenes that several networks saw, in the order of the groups."""
    by_row = {id(source.row): source for source in sources}
    found: dict[tuple[Any, ...], dict[str, Group]] = {}
    for group in groups:
        if group.number and group.ok:
            own = found.setdefault(_scenes(by_row[id(group.ok[0])]), {})
            own.setdefault(group.first("fingerprint") or "?", group)
    return [_table(list(own.values()), by_row) for own in found.values() if len(own) > 1]


def _scenes(source: Source) -> tuple[Any, ...]:
    row = source.row
    settings = {
        key: value
        for key, value in source.settings.items()
        if key.startswith("dataset.") and key.removeprefix("dataset.") not in _OF_NETWORKS
    }
    about = tuple(row[name] for name in ("dataset", "frames", "device", "hardware"))
    return *about, tuple(source.scenes), tuple(sorted(settings.items()))


def _table(groups: Sequence[Group], by_row: Mapping[int, Source]) -> Networks:
    names = _names(groups)
    rows = [(name, row) for name, group in zip(names, groups, strict=True) for row in group.shown(DRAWN_ROWS)]
    shown = [metric for metric in metrics(*TRUTH) if "table" in metric.shown]
    scores = [_scores(by_row[id(row)]) for _, row in rows]
    baseline, reference = scores[0][1], next(filter(is_reference, groups[0].ok), None)
    compared: list[dict[str, Compared]] = [{} for _ in rows]
    known = []
    for metric in shown:
        pairs = [_pairs(own, baseline, metric.name) for own, _ in scores]
        if not any(pairs):
            continue
        known.append(metric)
        changes = [paired_interval([own - other for own, other in each]) for each in pairs]
        compared_with = [
            row is not reference and bool(each) for (_, row), each in zip(rows, pairs, strict=True)
        ]
        told = [change if other else None for change, other in zip(changes, compared_with, strict=True)]
        judged = verdicts(told, metric.direction)
        for place, each, change, verdict in zip(compared, pairs, changes, judged, strict=True):
            value, other = (
                (sum(side) / len(each) for side in zip(*each, strict=True)) if each else (None, None)
            )
            place[metric.name] = Compared(value, other, change, verdict)
    return Networks(
        names[0], len(baseline), known, [(*row, own) for row, own in zip(rows, compared, strict=True)]
    )


def _names(groups: Sequence[Group]) -> list[str]:
    """Of the models; with the fingerprint where two have the same."""
    names = [group.first("model") or "?" for group in groups]
    return [
        name if names.count(name) == 1 else f"{name} {(group.first('fingerprint') or '?')[:8]}"
        for name, group in zip(names, groups, strict=True)
    ]


def _scores(source: Source) -> tuple[Scores, Scores]:
    """Of the run's model and of FP32 on each scene; none where the record can no longer be read."""
    try:
        geometry = read_record(source.path, layers=False).geometry
    except (OSError, ValueError):
        geometry = None
    scenes = geometry.scenes if geometry else []
    known = [metric for metric in metrics(*TRUTH) if "table" in metric.shown]

    def of(side: str) -> Scores:
        return {
            scene.scene: {m.name: number(score(getattr(scene, side), m.scope, m.key)) for m in known}
            for scene in scenes
        }

    return of("quantized"), of("reference")


def _pairs(own: Scores, baseline: Scores, metric: str) -> list[tuple[float, float]]:
    both = ((own[scene][metric], baseline[scene][metric]) for scene in own if scene in baseline)
    return [(mine, other) for mine, other in both if mine is not None and other is not None]


def networks_json(table: Networks) -> dict[str, Any]:
    """The table for computing."""
    rows = [
        {"network": name, "scheme": row["title"], "group": row["group"], "stored_bytes": row["stored_bytes"]}
        | {
            key: {"value": c.value, "baseline": c.baseline, **_finite(c.change), "verdict": c.verdict}
            for key, c in own.items()
        }
        for name, row, own in table.rows
    ]
    return {"baseline": table.baseline, "scenes": table.scenes, "rows": rows}


def _finite(change: Interval) -> dict[str, float | None]:
    return {f"change_{end}": number(getattr(change, end)) for end in ("mean", "low", "high", "p")}
