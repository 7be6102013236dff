"""`report.template=multi_scene`: means over scenes for each scheme, each scene by itself, and the scenes that failed."""

import csv
import io
from collections.abc import Sequence

from vggtq.metrics.interval import MIN_SCENES, Interval, paired_interval
from vggtq.metrics.metric import Metric
from vggtq.metrics.table import named
from vggtq.report.documents.results import Report
from vggtq.report.documents.scenes import Cohort, by_category, cohorts, metric_means, score_metrics
from vggtq.report.documents.tables import escape, markdown_table
from vggtq.report.rows.verdicts import resolution, verdicts
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import DASH, beside, column_heading, cut, describe_model, short


def multi_scene_files(report: Report, t: Translate) -> dict[str, str]:
    """The contents of the template's files by name."""
    found = cohorts([*report.sources, *report.refused])  # a scene that cannot be read is one that failed
    return {"multi_scene.md": _markdown(found, t), "multi_scene.csv": _csv(found)}


def _markdown(found: Sequence[Cohort], t: Translate) -> str:
    parts = [f"# {t('scenes.title')}", t("scenes.intro") if found else t("scenes.none")]
    for cohort in found:
        parts += _cohort(cohort, t)
    return "\n\n".join(parts)


def _cohort(cohort: Cohort, t: Translate) -> list[str]:
    common, others = cohort.common, [scene for scene in cohort.scenes if scene not in cohort.common]
    parts = [f"## {escape(describe_model(cohort.about, t))}"]
    if common:
        parts += [f"### {t('scenes.means', n=len(common))}", _table([t("label")], _means(cohort, t), t)]
        parts += _notes(cohort, t)
    if cohort.categories:
        parts += [f"### {t('scenes.categories')}", _categories(cohort, t)]
    if others:
        parts.append(t("scenes.uncommon", names=escape(t("comma").join(others))))
    parts += [f"### {t('scenes.each')}", _table([t("scene"), t("label")], _each(cohort), t)]
    if cohort.failed:
        lines = [(line["scene"], line["scheme"], cut(line["reason"], 240)) for line in cohort.failed]
        parts += [
            f"### {t('scenes.failed')}",
            markdown_table([t("scene"), t("label"), t("reason")], lines, left=3),
        ]
    return parts


def _table(first: Sequence[str], lines: Sequence[Sequence[str]], t: Translate) -> str:
    mean_error = named("mean_relative_error")
    headings = [
        *first,
        *(column_heading(metric, metric.name, t) for metric in [mean_error, *score_metrics()]),
    ]
    return markdown_table(headings, lines, left=len(first))


def _means(cohort: Cohort, t: Translate) -> list[list[str]]:
    lines = []
    judged = {metric.name: _verdicts(cohort, metric) for metric in score_metrics()}
    for scheme in cohort.schemes:
        scores = cohort.of(scheme)
        errors = [line["mean_relative_error"] for line in scores]
        error = paired_interval([value for value in errors if value is not None])
        words = DASH if not error.scenes else short(error.mean)
        if error.ends:
            words += f" [{', '.join(map(short, error.ends))}]"
        cells = [
            beside(*metric_means(scores, m.name), judged[m.name].get(scheme), m.decimals)
            for m in score_metrics()
        ]
        lines.append([scheme, words, *cells])
    return lines


def _categories(cohort: Cohort, t: Translate) -> str:
    """For each scheme its means in each category, then over the categories, as papers average them."""
    lines: list[list[str]] = []
    for scheme in cohort.schemes:
        found = by_category(cohort.of(scheme))
        over_all = [
            beside(*metric_means(list(found.values()), m.name), decimals=m.decimals) for m in score_metrics()
        ]
        for category, line in found.items():
            scores = [
                beside(line[m.name], line[f"{m.name}.fp32"], decimals=m.decimals) for m in score_metrics()
            ]
            lines.append([scheme, category, str(line["scenes"]), *scores])
        lines.append([scheme, t("scenes.over_categories", n=len(found)), str(len(cohort.common)), *over_all])
    scores = [column_heading(metric, metric.name, t) for metric in score_metrics()]
    return markdown_table([t("label"), t("scenes.category"), t("scenes.count"), *scores], lines, left=2)


def _changes(cohort: Cohort, metric: Metric) -> dict[str, Interval]:
    """Of each scheme but FP32 itself."""
    compared = [scheme for scheme in cohort.schemes if scheme not in cohort.references]
    return {scheme: metric_means(cohort.of(scheme), metric.name)[2] for scheme in compared}


def _verdicts(cohort: Cohort, metric: Metric) -> dict[str, str | None]:
    """Whether the change of a scheme is more than noise."""
    changes = _changes(cohort, metric)
    return dict(zip(changes, verdicts(list(changes.values()), metric.direction), strict=True))


def _notes(cohort: Cohort, t: Translate) -> list[str]:
    """The smallest difference that the common scenes can show in each metric, or that they are too few."""
    if len(cohort.common) < MIN_SCENES:
        return [t("few")]
    least = {metric.name: resolution(_changes(cohort, metric).values()) for metric in score_metrics()}
    items = [f"{t(f'metric.{name}')} ±{short(value)}" for name, value in least.items() if value is not None]
    return [t("resolution", scenes=len(cohort.common), items=t("comma").join(items))] if items else []


def _each(cohort: Cohort) -> list[list[str]]:
    ordered = sorted(cohort.scores, key=lambda line: (line["scene"], cohort.schemes.index(line["scheme"])))
    return [
        [
            *(line["scene"], line["scheme"], short(line["mean_relative_error"])),
            *(beside(line[m.name], line[f"{m.name}.fp32"], decimals=m.decimals) for m in score_metrics()),
        ]
        for line in ordered
    ]


def _csv(found: Sequence[Cohort]) -> str:
    """Each scene of each scheme, for computing."""
    text, about = io.StringIO(), ("model", "dataset", "device")
    scores = [f"{metric.name}{end}" for metric in score_metrics() for end in ("", ".fp32")]
    names = [*about, "scene", "scheme", "status", "reason", "mean_relative_error", *scores]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for cohort in found:
        shared = {name: cohort.about[name] for name in about}
        writer.writerows(shared | line for line in cohort.lines)
    return text.getvalue().rstrip("\n")
