"""`report.template=multi_scene`: means over scenes for each scheme, each scene by itself, and the scenes that failed."""

from collections.abc import Sequence

from vggtq.report.i18n import Translate
from vggtq.report.results import Report
from vggtq.report.scenes import METRICS, Cohort, SceneScore, cohorts, error_interval, metric_means
from vggtq.report.tables import escape, markdown_table
from vggtq.report.wording import DASH, beside, cut, describe_model, short


def multi_scene_files(report: Report, t: Translate) -> dict[str, str]:
    """The contents of the template's files by name."""
    found = cohorts(report.sources)
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
    if others:
        parts.append(t("scenes.uncommon", names=escape(t("comma").join(others))))
    parts += [f"### {t('scenes.each')}", _table([t("scene"), t("label")], _each(cohort), t)]
    if cohort.failed:
        lines = [
            [escape(scene), escape(scheme), escape(cut(reason, 240))]
            for scene, scheme, reason in cohort.failed
        ]
        parts += [
            f"### {t('scenes.failed')}",
            markdown_table([t("scene"), t("label"), t("reason")], lines, left=3),
        ]
    return parts


def _table(first: Sequence[str], lines: Sequence[Sequence[str]], t: Translate) -> str:
    headings = [*first, t("mean_error"), t("auc"), t("abs_rel"), t("point_error")]
    return markdown_table([escape(heading) for heading in headings], lines, left=len(first))


def _means(cohort: Cohort, t: Translate) -> list[list[str]]:
    lines = []
    for scheme in cohort.schemes:
        scores = cohort.of(scheme)
        error = error_interval(scores)
        words = DASH if not error["scenes"] else short(error["mean"])
        if error["low"] is not None:
            words += f" [{short(error['low'])}, {short(error['high'])}]"
        cells = [_change(*metric_means(scores, metric)) for metric in METRICS]
        lines.append([escape(scheme), escape(words), *map(escape, cells)])
    return lines


def _change(quantized: float | None, reference: float | None, change: dict[str, float | None]) -> str:
    return beside(quantized, reference, change["mean"], change["low"], change["high"])


def _each(cohort: Cohort) -> list[list[str]]:
    ordered = sorted(cohort.scores, key=lambda score: (score.scene, cohort.schemes.index(score.scheme)))
    return [
        [
            escape(score.scene),
            escape(score.scheme),
            short(score.error),
            *(beside(*pair) for pair in score.pairs.values()),
        ]
        for score in ordered
    ]


def _csv(found: Sequence[Cohort]) -> str:
    """Each scene of each scheme, for computing."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{'.'.join(keys)}{end}" for keys in METRICS.values() for end in ("", ".fp32")]
    writer.writerow(
        ["model", "dataset", "device", "scene", "scheme", "status", "reason", "mean_relative_error", *names]
    )
    for cohort in found:
        about = [cohort.about[name] for name in ("model", "dataset", "device")]
        for score in cohort.scores:
            writer.writerow([*about, score.scene, score.scheme, "ok", "", score.error, *_flat(score)])
        for scene, scheme, reason in cohort.failed:
            writer.writerow([*about, scene, scheme, "failed", reason, *[""] * (1 + len(names))])
    return text.getvalue().rstrip("\n")


def _flat(score: SceneScore) -> list[float | None]:
    return [value for pair in score.pairs.values() for value in pair]
