"""`vggtq report`: the records of many runs as tables, charts and a recommendation."""

import gc
import sys
from dataclasses import dataclass
from pathlib import Path

from vggtq.errors import DataError
from vggtq.report.build import TEMPLATES, build_report, nothing_found
from vggtq.report.documents.results import Report
from vggtq.report.documents.tables import groups_table
from vggtq.report.rows.collection import Collection
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.words.texts import Translate, translator
from vggtq.report.words.wording import answer, group_name, reason, why_unreadable
from vggtq.terminal.command_line import entry, tell
from vggtq.terminal.help import Command
from vggtq.terminal.options import option


@dataclass
class Options:
    """The folders to report on, and the form of the report. Every option but the folders may be written with
    the prefix report.
    """

    folders: list[str] = option("where to look for records, at any depth", ["outputs"], words="FOLDERS")
    lang: str = option("language of the report", "en", choices=("en", "zh"))
    out: str = option("folder for the report", "outputs/report")
    template: str = option(
        "paper: also a report in prose (paper.md) and its table for LaTeX (results.tex); handin: also a folder of five "
        "documents to hand in; multi_scene: also each scene and the means over scenes (multi_scene.md, multi_scene.csv)",
        "standard",
        choices=tuple(TEMPLATES),
    )
    columns: list[str] = option(
        "with template=paper: the metrics in its tables, by their names in comparison.csv or in short, e.g. "
        "[stored_bytes,pose.auc_5,depth.abs_rel]; the headline ones where it is left out",
        [],
    )
    prune: str = option(
        "refused: first delete the folders of runs that were refused before they started",
        "none",
        choices=("none", "refused"),
    )
    strict: bool = option("exit status 1 where a result.json is damaged or of another program", False)


COMMAND = Command(
    "report",
    Options,
    ("", "outputs/runs report.lang=zh report.out=report_zh"),
    """\
The options may be written with a prefix, report.lang=zh. Writes index.html (one page that opens from disk: table, charts,
geometry, a choice within limits), comparison.csv, comparison.md, comprehensive_results.json, comprehensive_report.txt and
comprehensive_visualizations.png (one more page, _2 and so on, for each group of comparable runs).
""",
    wrong_usage=2,
    before=lambda argv: [a.removeprefix("report.") if "=" in a else a for a in argv],
)


def _work(options: Options) -> int:
    # rows hold no cycles: to look for some among thousands of them takes longer than charts
    gc.set_threshold(100_000)
    folders = [Path(folder) for folder in options.folders]
    if options.folders == ["outputs"] and not folders[0].is_dir():
        raise DataError(nothing_found(folders, Collection()))
    report = build_report(
        folders, Path(options.out), options.lang, options.template, options.prune, options.columns
    )
    tell(summary(report, options.lang))
    return int(options.strict and bool(report.unreadable))


def summary(report: Report, lang: str) -> str:
    """The table, why runs failed, which files are no records, and the files that were written."""
    from rich.console import Console

    t = translator(lang)
    # a file has no width of its own, and 80 columns would fold every number
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as table:
        console.print(groups_table(report.groups, lang))
    failed = [row for group in report.groups for row in group.failed[:DRAWN_ROWS]]
    lines = [f"{t('failed')}{t('colon')}{row['title']}{t('colon')}{reason(row)}" for row in failed]
    lines += [
        f"{t('unreadable')}{t('colon')}{file.path}{t('colon')}{why_unreadable(file, t)}"
        for file in report.unreadable
    ]
    lines += [t("refused_note", n=len(report.refused))] if report.refused else []
    lines += [str(path) for path in report.files]
    return table.get() + "\n".join([*lines, *report.hints, *_answers(report, t)]) + "\n"


def _answers(report: Report, t: Translate) -> list[str]:
    """One sentence for each group, last, where a terminal leaves it in sight."""
    found = [group for group in report.groups if group.number and group.ok]
    several = len(found) > 1
    return [
        f"{group_name(group, t)}{t('colon')}" * several + answer(group, t) for group in found[:DRAWN_ROWS]
    ]


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
