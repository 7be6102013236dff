"""Runs over many scenes, one scene each or several: what each scheme scores on each scene, and its means with intervals.

Runs belong together when they differ in nothing but scheme and scene: the same weights, data set, device. Means
are over the scenes that every scheme was scored on, for a scheme that skipped a hard scene would look better than it is;
scenes that miss somewhere are named, as are those that failed.

Fidelity is known per run: a run over several scenes has no relative error of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vggtq.metrics.interval import paired_interval
from vggtq.report.frame import Row, number
from vggtq.report.records import dig, read_record
from vggtq.report.sources import Source
from vggtq.report.titles import unique_titles

METRICS = {
    "AUC@30": ("pose", "auc_30"),
    "AbsRel": ("depth", "abs_rel"),
    "point error": ("points", "relative_error_median"),
}
_SCENE_KEYS = ("scene", "dataset.scene")
_COHORT = ("model", "fingerprint", "dataset", "device", "hardware")

Pair = tuple[float | None, float | None]  # of the quantized model, of FP32


@dataclass(frozen=True)
class SceneScore:
    """One scheme on one scene; `error`: mean relative error against FP32, where the run had this scene alone."""

    scene: str
    scheme: str
    error: float | None
    pairs: dict[str, Pair]


@dataclass
class Cohort:
    """Runs that differ in scheme and scene alone. `failed`: (scene, scheme, reason)."""

    about: Row
    scores: list[SceneScore] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def schemes(self) -> list[str]:
        return list(dict.fromkeys(score.scheme for score in self.scores))

    @property
    def scenes(self) -> list[str]:
        return sorted({score.scene for score in self.scores})

    @cached_property
    def common(self) -> list[str]:
        """The scenes on which every scheme was scored."""
        have = [{score.scene for score in self.scores if score.scheme == scheme} for scheme in self.schemes]
        return sorted(set.intersection(*have)) if have else []

    def of(self, scheme: str) -> list[SceneScore]:
        """Its scores on the common scenes."""
        return [score for score in self.scores if score.scheme == scheme and score.scene in self.common]


def error_interval(scores: Sequence[SceneScore]) -> dict[str, Any]:
    return paired_interval([score.error for score in scores if score.error is not None])


def metric_means(
    scores: Sequence[SceneScore], metric: str
) -> tuple[float | None, float | None, dict[str, Any]]:
    """Means of the quantized and of the FP32 model, and the change with its interval, over scenes where both are known."""
    known = [
        (quantized, reference)
        for quantized, reference in (score.pairs[metric] for score in scores)
        if quantized is not None and reference is not None
    ]
    change = paired_interval([quantized - reference for quantized, reference in known])
    if not known:
        return None, None, change
    quantized, reference = (sum(values) / len(known) for values in zip(*known, strict=True))
    return quantized, reference, change


def cohorts(sources: Sequence[Source]) -> list[Cohort]:
    """Those with two scenes or more, most scores first."""
    titles = _titles(sources)
    found: dict[tuple[Any, ...], Cohort] = {}
    for source in sources:
        if source.row["status"] == "ok":
            cohort = found.setdefault(tuple(source.row[name] for name in _COHORT), Cohort(source.row))
            cohort.scores += _scores(source, titles[_scheme_key(source)])
    for source in sources:
        if source.row["status"] != "ok" and (fitting := _fitting(source, list(found.values()))):
            reason = " ".join((source.row["error"] or "?").split())
            fitting.failed.append((_scene_of(source), titles[_scheme_key(source)], reason))
    several = [one for one in found.values() if len({*one.scenes, *(scene for scene, *_ in one.failed)}) > 1]
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
    """All settings but the scene: what makes two runs the same scheme."""
    return source.row["label"], *sorted((k, v) for k, v in source.settings.items() if k not in _SCENE_KEYS)


def _titles(sources: Sequence[Source]) -> dict[tuple[Any, ...], str]:
    """What each scheme is called; settings are told where labels do not tell schemes apart."""
    first: dict[tuple[Any, ...], Source] = {}
    for source in sources:
        first.setdefault(_scheme_key(source), source)
    settings: list[Mapping[str, str]] = [
        {key: value for key, value in source.settings.items() if key not in _SCENE_KEYS}
        for source in first.values()
    ]
    rows = [{**source.row, "title": None} for source in first.values()]
    return dict(zip(first, unique_titles(rows, settings), strict=True))


def _scores(source: Source, scheme: str) -> list[SceneScore]:
    """Of each scene of the run; its geometry is read from the record again."""
    measured = dig(read_record(source.path), "geometry", "scenes")
    by_name = {str(dig(scene, "scene")): scene for scene in measured} if isinstance(measured, list) else {}
    error = source.row["mean_relative_error"] if len(source.scenes) == 1 else None
    return [SceneScore(name, scheme, error, _pairs(by_name.get(name))) for name in source.scenes]


def _pairs(scene: Any) -> dict[str, Pair]:
    return {
        name: (number(dig(scene, "quantized", *keys)), number(dig(scene, "reference", *keys)))
        for name, keys in METRICS.items()
    }
