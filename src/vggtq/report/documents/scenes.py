"""Runs over many scenes, one scene each or several: the scores of each scheme on each scene, and their means with intervals.

Runs of one group differ in scheme and scene only: they have the same weights, data set and device. Means are taken over the
scenes on which every scheme was scored, since a scheme that skipped a hard scene would look better than it is. The report
names missing and failed scenes.

Fidelity is known per run, so a run over several scenes has no relative error for each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vggtq.metrics.interval import Interval, paired_interval
from vggtq.metrics.metric import TRUTH, Metric
from vggtq.metrics.results import SceneGeometry, score
from vggtq.metrics.table import metrics
from vggtq.records.plain import nothing, number
from vggtq.records.reading import read_record
from vggtq.report.rows.recommend import is_reference
from vggtq.report.rows.row import Row
from vggtq.report.rows.sources import Source
from vggtq.report.rows.titles import unique_titles

_SCENE_KEYS = ("scene", "dataset.scene")
_COHORT = ("model", "fingerprint", "dataset", "device", "hardware")

Line = dict[
    str, Any
]  # one scheme on one scene, as in multi_scene.csv: each metric by its name, FP32's as `<name>.fp32`


@dataclass
class Cohort:
    """Runs that differ in scheme and scene alone. references: the schemes that are the FP32 model itself."""

    about: Row
    lines: list[Line] = field(default_factory=list)
    references: set[str] = field(default_factory=set)

    @property
    def scores(self) -> list[Line]:
        return [line for line in self.lines if line["status"] == "ok"]

    @property
    def failed(self) -> list[Line]:
        return [line for line in self.lines if line["status"] == "failed"]

    @property
    def schemes(self) -> list[str]:
        return list(dict.fromkeys(line["scheme"] for line in self.scores))

    @property
    def scenes(self) -> list[str]:
        return sorted({line["scene"] for line in self.scores})

    @cached_property
    def common(self) -> list[str]:
        """The scenes on which every scheme was scored."""
        have = [{line["scene"] for line in self.scores if line["scheme"] == name} for name in self.schemes]
        return sorted(set.intersection(*have)) if have else []

    @cached_property
    def categories(self) -> list[str]:
        """The categories of the common scenes, where a data set names them `category/scene`; none where all are
        of one.
        """
        parts = [scene.partition("/") for scene in self.common]
        found = sorted({category for category, slash, _ in parts if slash})
        return found if len(found) > 1 and all(slash for _, slash, _ in parts) else []

    def of(self, scheme: str) -> list[Line]:
        """Its scores on the common scenes."""
        return [
            line for line in self.scores if line["scheme"] == scheme and line["scene"] in set(self.common)
        ]


def score_metrics() -> list[Metric]:
    """The metrics against ground truth that tables show."""
    return [metric for metric in metrics(*TRUTH) if "table" in metric.shown]


def metric_means(lines: Sequence[Line], metric: str) -> tuple[float | None, float | None, Interval]:
    """Means of the quantized and of the FP32 model, and the change with its interval, over scenes where both are known."""
    pairs = [(line[metric], line[f"{metric}.fp32"]) for line in lines]
    known = [pair for pair in pairs if None not in pair]
    change = paired_interval([quantized - reference for quantized, reference in known])
    if not known:
        return None, None, change
    quantized, reference = (sum(values) / len(known) for values in zip(*known, strict=True))
    return quantized, reference, change


def by_category(lines: Sequence[Line]) -> dict[str, Line]:
    """One line for each category, its means over those scenes where both models have a score, and how many scenes it has."""
    found: dict[str, Line] = {}
    for category in sorted({line["scene"].partition("/")[0] for line in lines}):
        own = [line for line in lines if line["scene"].partition("/")[0] == category]
        found[category] = {"scenes": len(own)}
        for metric in score_metrics():
            quantized, reference, _ = metric_means(own, metric.name)
            found[category] |= {metric.name: quantized, f"{metric.name}.fp32": reference}
    return found


def cohorts(sources: Sequence[Source]) -> list[Cohort]:
    """Those with two scenes or more, most scores first."""
    titles = _titles(sources)
    found: dict[tuple[Any, ...], Cohort] = {}
    for source in sources:
        if source.row["status"] == "ok":
            cohort = found.setdefault(tuple(source.row[name] for name in _COHORT), Cohort(source.row))
            scheme = titles[_scheme_key(source)]
            cohort.lines += _scores(source, scheme)
            cohort.references |= {scheme} if is_reference(source.row) else set()
    for source in sources:
        if source.row["status"] != "ok" and (fitting := _fitting(source, list(found.values()))):
            line = {"scene": _scene_of(source), "scheme": titles[_scheme_key(source)], "status": "failed"}
            fitting.lines.append(line | {"reason": source.row["error"] or "?"})
    several = [one for one in found.values() if len({line["scene"] for line in one.lines}) > 1]
    return sorted(several, key=lambda one: -len(one.scores))


def _fitting(source: Source, known: Sequence[Cohort]) -> Cohort | None:
    """The cohort of a failed run, the one that nothing it knows contradicts: its weights may not have been known yet."""
    row = {**source.row, "dataset": source.row["dataset"] or source.settings.get("dataset.name")}
    row["model"] = row["model"] or source.settings.get("model.name")
    fits = [one for one in known if all(row[name] in (None, one.about[name]) for name in _COHORT)]
    return fits[0] if len(fits) == 1 else None


def _scene_of(source: Source) -> str:
    named = next(
        (source.settings[key] for key in _SCENE_KEYS if source.settings.get(key, "null") != "null"), None
    )
    return named or ", ".join(source.scenes) or "?"


def _scheme_key(source: Source) -> tuple[Any, ...]:
    """All settings but the scene: they decide whether two runs have the same scheme."""
    return source.row["label"], *sorted((k, v) for k, v in source.settings.items() if k not in _SCENE_KEYS)


def _titles(sources: Sequence[Source]) -> dict[tuple[Any, ...], str]:
    """The titles of schemes; settings are added where labels do not distinguish schemes."""
    first: dict[tuple[Any, ...], Source] = {}
    for source in sources:
        first.setdefault(_scheme_key(source), source)
    settings: list[Mapping[str, str]] = [
        {key: value for key, value in source.settings.items() if key not in _SCENE_KEYS}
        for source in first.values()
    ]
    rows = [{**source.row, "title": None} for source in first.values()]
    return dict(zip(first, unique_titles(rows, settings), strict=True))


def _scores(source: Source, scheme: str) -> list[Line]:
    """Of each scene of the run; its geometry is read from the record again."""
    geometry = read_record(source.path, layers=False).geometry
    by_name = {scene.scene: scene for scene in geometry.scenes} if geometry else {}
    error = source.row["mean_relative_error"] if len(source.scenes) == 1 else None
    about = {"scheme": scheme, "status": "ok", "mean_relative_error": error}
    return [
        {"scene": name} | about | _pairs(by_name.get(name, nothing(SceneGeometry))) for name in source.scenes
    ]


def _pairs(scene: SceneGeometry) -> dict[str, float | None]:
    sides = (("", scene.quantized), (".fp32", scene.reference))
    return {
        f"{m.name}{end}": number(score(side, m.scope, m.key)) for m in score_metrics() for end, side in sides
    }
