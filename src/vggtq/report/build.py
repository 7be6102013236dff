"""Records in, files out: index.html, comparison.csv, comparison.md and the comprehensive json, txt and png."""

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.atomic import replacing
from vggtq.errors import ConfigError, DataError, did_you_mean
from vggtq.report.collection import Collection, collect
from vggtq.report.frame import record_row, whole_numbers
from vggtq.report.groups import Group, group_rows
from vggtq.report.i18n import LANGUAGES, Translate, translator
from vggtq.report.index import INDEX_NAME, load_index, write_index
from vggtq.report.page import page
from vggtq.report.paper import paper_files
from vggtq.report.records import read_record
from vggtq.report.results import Report, write_results
from vggtq.report.scenes_markdown import multi_scene_files
from vggtq.report.tables import group_markdown, groups_table, unreadable_markdown
from vggtq.report.text import group_text, heading, unreadable_text, wrap
from vggtq.report.titles import flat

if TYPE_CHECKING:
    from rich.table import Table

# What a template writes besides the standard files: their contents by name.
TEMPLATES: dict[str, Callable[[Report, Translate], dict[str, str]]] = {
    "standard": lambda report, t: {},
    "paper": paper_files,
    "multi_scene": multi_scene_files,
}
_CHARTS = "comprehensive_visualizations"
_log = logging.getLogger("vggtq.report")
Values = Sequence[Sequence[Any]]  # of all rows, by column


def build_report(folders: Sequence[Path], out: Path, lang: str = "en", template: str = "standard") -> Report:
    """Merge every record below `folders` and write the report into `out`; `template` says what besides the standard files.

    DataError if there is none; ConfigError for a folder that does not exist, an unknown language or template.
    """
    folders, out = [Path(folder) for folder in folders], Path(out)
    _check(folders, lang, template)
    with _told_as_one_line(out):
        _check_out(out)
    index = load_index(out / INDEX_NAME)
    found = collect(folders, skip=out, index=index)
    if not found.sources:
        raise DataError(nothing_found(folders, found))
    if index.changed:
        with _told_as_one_line(out):
            write_index(index.packed(), out / INDEX_NAME)
    report = make_report(found, folders)
    with _told_as_one_line(out):
        write_report(report, out, lang)
        for name, content in TEMPLATES[template](report, translator(lang)).items():
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


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"report.out={out} is a file; name a folder for the report")


def _check(folders: Sequence[Path], lang: str, template: str) -> None:
    if template not in TEMPLATES:
        hint = did_you_mean(template, TEMPLATES)
        raise ConfigError(f"report.template={template} is not one of {', '.join(TEMPLATES)}{hint}")
    if lang not in LANGUAGES:
        valid = " or ".join(LANGUAGES)
        raise ConfigError(
            f"report.lang={lang} is no language of the report; use {valid}{did_you_mean(lang, LANGUAGES)}"
        )
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
    if found.unreadable:
        first, *others = found.unreadable
        more = f" and {len(others)} more" if others else ""
        return f"no readable record below {where}: {first.path} ({first.reason}){more}; make records with: python -m vggtq.run"
    return f"no result.json below {where}; every run leaves one, make some with: python -m vggtq.run"


def make_report(found: Collection, folders: Sequence[Path] = ()) -> Report:
    """Rows, groups and recommendations of the records, nothing written."""
    rows = [source.row for source in found.sources]
    groups = group_rows(rows, [source.settings for source in found.sources])
    choices = {group.number: group.choices for group in groups if group.number}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(groups, choices, found.unreadable, found.superseded, list(folders), now, found.sources)


def summary_of(records: Iterable[Path | Mapping[str, Any]], lang: str = "en") -> "Table":
    """The terminal table of some records, given as loaded or as the paths of their `result.json`."""
    loaded = [read_record(record) if isinstance(record, Path) else dict(record) for record in records]
    return groups_table(_grouped(loaded), lang)


def _grouped(records: Sequence[Mapping[str, Any]]) -> list[Group]:
    return group_rows([record_row(dict(r)) for r in records], [flat(r.get("config")) for r in records])


def write_report(report: Report, out: Path, lang: str = "en") -> None:
    """Write all files; each appears under its name only when it is complete."""
    t = translator(lang)
    out.mkdir(parents=True, exist_ok=True)
    charts = _write_charts(report, out, lang)
    values = [tuple(map(row.get, report.names)) for row in report.rows]
    _write(report, out / "comparison.csv", partial(_write_csv, report.names, values))
    _write_parquet(report, values, out / "comparison.parquet", t)
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


def _write_parquet(report: Report, values: Values, path: Path, t: Translate) -> None:
    """The table for whoever computes with it, types kept; where pyarrow is missing a line says how to have it."""
    if find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)  # an older report's
        report.hints.append(t("no_parquet"))
        return
    import pyarrow
    from pyarrow import parquet

    types = dict.fromkeys(whole_numbers(report.rows), pyarrow.int64())
    columns = zip(report.names, zip(*values, strict=True), strict=True)
    table = pyarrow.table({name: pyarrow.array(column, types.get(name)) for name, column in columns})
    _write(report, path, partial(parquet.write_table, table))


def _write(report: Report, path: Path, write: Callable[[Path], Any]) -> None:
    with replacing(path) as temporary:
        write(temporary)
    report.files.append(path)


def _write_text(report: Report, path: Path, content: str) -> None:
    _write(report, path, lambda temporary: temporary.write_text(content + "\n", encoding="utf-8"))


def _write_charts(report: Report, out: Path, lang: str) -> dict[int, str]:
    """One page per group with something to draw (at least one page); pages of an older report are removed."""
    from vggtq.report.charts import save_charts
    from vggtq.report.fonts import find_cjk_font

    if lang == "zh" and find_cjk_font() is None:
        report.notes.append(translator(lang)("font_note"))
        _log.warning("no font with Chinese characters is installed: the charts are in English")
        lang = "en"
    drawn = [group for group in report.groups if group.ok] or report.groups[:1]
    charts = {}
    for index, group in enumerate(drawn, start=1):
        charts[group.number] = f"{_CHARTS}{f'_{index}' if index > 1 else ''}.png"
        _write(report, out / charts[group.number], partial(save_charts, group, translator(lang)))
    for old in out.glob(f"{_CHARTS}*.png"):
        if old.name not in charts.values():
            old.unlink()
    return charts


def _markdown(report: Report, charts: Mapping[int, str], t: Translate) -> str:
    parts = [f"# {t('title')}", _head(report, t)]
    for group in report.groups:
        parts.append(group_markdown(group, report.choices.get(group.number, []), charts.get(group.number), t))
    parts.append("\n\n".join(t(name) for name in ("error_note", "speed_note", "truth_note")))
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
        lines += group_text(group, report.choices.get(group.number, []), charts.get(group.number), t)
    if report.unreadable:
        lines += unreadable_text(report.unreadable, t)
    return "\n".join(lines)
