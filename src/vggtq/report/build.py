"""Records in, files out: index.html, comparison.csv, comparison.md and the comprehensive json, txt and png."""

import csv
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.errors import ConfigError, DataError, check_choice, did_you_mean
from vggtq.files.atomic import replacing
from vggtq.metrics.table import adopt
from vggtq.records.reading import read_record
from vggtq.records.schema import Record
from vggtq.report.documents.handin import handin_files
from vggtq.report.documents.networks import networks_markdown
from vggtq.report.documents.paper import paper_files
from vggtq.report.documents.results import Report, write_results
from vggtq.report.documents.scenes_markdown import multi_scene_files
from vggtq.report.documents.tables import (
    group_markdown,
    groups_table,
    refused_markdown,
    unreadable_markdown,
)
from vggtq.report.documents.text import group_text, heading, unreadable_text, wrap
from vggtq.report.page.html import page
from vggtq.report.rows.collection import Collection, collect, prune_refused
from vggtq.report.rows.columns import named
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.row import record_row
from vggtq.report.rows.titles import flat
from vggtq.report.words.texts import LANGUAGES, Translate, translator
from vggtq.report.words.wording import cut

if TYPE_CHECKING:
    from rich.table import Table


# What a template writes besides the standard files: their contents by name, or the file to copy.
TEMPLATES: dict[str, Callable[[Report, Translate], Mapping[str, str | Path]]] = {
    "standard": lambda report, t: {},
    "paper": paper_files,
    "handin": handin_files,
    "multi_scene": multi_scene_files,
}
_CHARTS = "comprehensive_visualizations"
TIMES = "accuracy_over_time.png"
_log = logging.getLogger("vggtq.report")
Values = Sequence[Sequence[Any]]  # of all rows, by column


def build_report(
    folders: Sequence[Path],
    out: Path,
    lang: str = "en",
    template: str = "standard",
    prune: str = "none",
    columns: Sequence[str] = (),
) -> Report:
    """Merge every record below `folders` and write the report into `out`; `template` says what besides the standard files.

    prune=refused deletes the folders of runs that were refused before they started. columns: the names of the metrics in the
    tables of template=paper, empty for the usual ones. DataError if there is nothing to report;
    ConfigError for a folder that does not exist, an unknown language or template.
    """
    folders, out = [Path(folder) for folder in folders], Path(out)
    _check(folders, lang, template)
    if columns and template != "paper":
        raise ConfigError("columns=[…] are those of the table of template=paper; add template=paper")
    with _told_as_one_line(out):
        if out.exists() and not out.is_dir():
            raise ConfigError(f"report.out={out} is a file; name a folder for the report")
    found = collect(folders, skip=out)
    pruned = prune_refused(found) if prune == "refused" else []
    if pruned:
        found.refused = []
    if not found.sources:
        raise DataError(nothing_found(folders, found))
    named(columns)  # metrics from outside are known once the records have been read
    report = make_report(found, folders)
    report.columns = list(columns)
    if pruned:
        report.hints.append(translator(lang)("pruned", n=len(pruned)))
    with _told_as_one_line(out):
        write_report(report, out, lang)
        for name, content in TEMPLATES[template](report, translator(lang)).items():
            (out / name).parent.mkdir(exist_ok=True)
            if isinstance(content, Path):
                _write(report, out / name, partial(shutil.copyfile, content))
            else:
                _write_text(report, out / name, content)
    return report


@contextmanager
def _told_as_one_line(out: Path) -> Iterator[None]:
    """Whatever the system objects to, in words that name the option."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"report.out={out} cannot be written: {error.strerror or error}; name a folder that you may write to, such as "
            "report.out=outputs/report"
        ) from error


def _check(folders: Sequence[Path], lang: str, template: str) -> None:
    check_choice("report.template", template, TEMPLATES)
    check_choice("report.lang", lang, LANGUAGES)
    for folder in folders:
        if not folder.exists():
            beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
            hint = did_you_mean(folder.name, (path.name for path in beside))
            raise ConfigError(
                f"folder {folder} does not exist; name folders that hold runs, such as outputs{hint}"
            )


def nothing_found(folders: Sequence[Path], found: Collection) -> str:
    """The one line that says what is missing and which command makes it."""
    where = ", ".join(map(str, folders))
    if found.refused:
        source = found.refused[0]
        more = f" and {len(found.refused) - 1} more" if len(found.refused) > 1 else ""
        return (
            f"no run below {where} has started: {source.path} ({cut(source.row['error'] or '?', 160)}){more}; correct the "
            "command, and vggtq report prune=refused deletes such runs"
        )
    if found.unreadable:
        broken, *others = found.unreadable
        more = f" and {len(others)} more" if others else ""
        return f"no readable record below {where}: {broken.path} ({broken.reason}){more}; make records with: vggtq run"
    return f"no result.json below {where}; every run leaves one, make some with: vggtq run"


def make_report(found: Collection, folders: Sequence[Path] = ()) -> Report:
    """Rows, groups and recommendations of the records, nothing written."""
    rows = [source.row for source in found.sources]
    groups = group_rows(rows, [source.settings for source in found.sources])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(
        groups, found.unreadable, found.superseded, list(folders), now, found.sources, found.refused
    )


def summary_of(records: Iterable[Path | Record], lang: str = "en") -> "Table":
    """The terminal table of some records, given as read or as the paths of their `result.json`."""
    loaded = [read_record(record) if isinstance(record, Path) else record for record in records]
    for record in loaded:
        adopt(record.metrics or ())
    groups = group_rows([record_row(r) for r in loaded], [flat(r.config) for r in loaded])
    return groups_table(groups, lang)


def write_report(report: Report, out: Path, lang: str = "en") -> None:
    """Write all files; each appears under its name only when it is complete."""
    t = translator(lang)
    out.mkdir(parents=True, exist_ok=True)
    charts = _write_charts(report, out, lang)
    values = [tuple(map(row.get, report.names)) for row in report.rows]
    _write(report, out / "comparison.csv", partial(_write_csv, report.names, values))
    _write_parquet(report, out / "comparison.parquet", t)
    del values
    _write_text(report, out / "comparison.md", _markdown(report, charts, t))
    _write_text(report, out / "comprehensive_report.txt", _text(report, charts, t))
    _write_text(report, out / "index.html", page(report, lang))
    _write(report, out / "comprehensive_results.json", partial(write_results, report, t))


def _write_csv(names: Sequence[str], values: Values, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(values)


def _write_parquet(report: Report, path: Path, t: Translate) -> None:
    """The table for other programs, with its types. Without pyarrow a line says how to install it."""
    if find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)  # an older report's
        report.hints.append(t("no_parquet"))
        return
    _write(report, path, lambda temporary: report.frame.to_parquet(temporary, index=False))


def _write(report: Report, path: Path, write: Callable[[Path], Any]) -> None:
    with replacing(path) as temporary:
        write(temporary)
    report.files.append(path)


def _write_text(report: Report, path: Path, content: str) -> None:
    _write(report, path, lambda temporary: temporary.write_text(content + "\n", encoding="utf-8"))


def _write_charts(report: Report, out: Path, lang: str) -> dict[int, str]:
    """One page per group with something to draw (at least one page); pages of an older report are removed."""
    from vggtq.machine.fonts import find_cjk_font
    from vggtq.report.charts import accuracy_time
    from vggtq.report.charts.sheet import draw, save_figure

    if lang == "zh" and find_cjk_font() is None:
        report.notes.append(translator(lang)("font_note"))
        _log.warning("no font with Chinese characters is installed: the charts are in English")
        lang = "en"
    drawn = [group for group in report.groups if group.ok] or report.groups[:1]
    charts = {}
    for index, group in enumerate(drawn, start=1):
        charts[group.number] = f"{_CHARTS}{f'_{index}' if index > 1 else ''}.png"
        _write(
            report, out / charts[group.number], partial(save_figure, partial(draw, group, translator(lang)))
        )
    (out / TIMES).unlink(missing_ok=True)
    if timed := accuracy_time.panels(report.groups):
        make = partial(accuracy_time.draw, timed, translator(lang))
        _write(report, out / TIMES, partial(save_figure, make))
    for old in out.glob(f"{_CHARTS}*.png"):
        if old.name not in charts.values():
            old.unlink()
    return charts


def _markdown(report: Report, charts: Mapping[int, str], t: Translate) -> str:
    parts = [f"# {t('title')}", _head(report, t)]
    for group in report.groups:
        parts.append(group_markdown(group, charts.get(group.number), t))
    if any(path.name == TIMES for path in report.files):
        parts.append(
            f"## {t('chart.accuracy_time')}\n\n{t('accuracy_time_note')}\n\n![{t('chart.accuracy_time')}]({TIMES})"
        )
    parts += networks_markdown(report.networks, t)
    parts.append("\n\n".join(t(name) for name in ("error_note", "speed_note", "truth_note")))
    if report.refused:
        parts.append(refused_markdown(report.refused, t))
    if report.unreadable:
        parts.append(unreadable_markdown(report.unreadable, t))
    return "\n\n".join(parts)


def _head(report: Report, t: Translate) -> str:
    lines = [t("counts", **report.counts())]
    comparable = sum(1 for group in report.groups if group.number)
    return "\n\n".join([*lines, *([t("groups_note", groups=comparable)] if comparable > 1 else [])])


def _text(report: Report, charts: Mapping[int, str], t: Translate) -> str:
    lines = [t("title"), t("generated", when=report.generated, folders=", ".join(map(str, report.folders)))]
    lines += heading(t("overview"))
    paragraphs = [
        *_head(report, t).split("\n\n"),
        *(t(f"{name}_note") for name in ("error", "speed", "truth")),
        *report.notes,
    ]
    for paragraph in paragraphs:
        lines += wrap(paragraph)
    for group in report.groups:
        lines += group_text(group, charts.get(group.number), t)
    if report.refused:
        lines += ["", t("refused_note", n=len(report.refused))]
    if report.unreadable:
        lines += unreadable_text(report.unreadable, t)
    return "\n".join(lines)
