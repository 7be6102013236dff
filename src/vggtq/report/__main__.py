"""`python -m vggtq.report [folders…] [key=value…]`"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vggtq.errors import ConfigError, DataError, VggtqError, did_you_mean
from vggtq.report.build import build_report, nothing_found
from vggtq.report.collection import Collection
from vggtq.report.i18n import translator
from vggtq.report.results import Report
from vggtq.report.shortlist import DRAWN_ROWS
from vggtq.report.tables import groups_table
from vggtq.report.wording import reason

HELP = """\
Merge the result.json of many runs into tables, charts and a recommendation.

  python -m vggtq.report [folders…] [key=value…]

folders          where to look, at any depth; without any: outputs
report.lang      en (default) or zh
report.out       folder for the report, default outputs/report
report.template  standard (default); paper: also a report in prose (paper.md) and its table for LaTeX (results.tex);
                 multi_scene: also each scene and the means over scenes (multi_scene.md, multi_scene.csv)

The prefix report. may be left out.

Writes index.html (one page that opens from disk: table, charts, geometry, a choice within limits), comparison.csv,
comparison.md, comprehensive_results.json, comprehensive_report.txt and comprehensive_visualizations.png (one more
page, _2 and so on, for each group of comparable runs).

  python -m vggtq.report
  python -m vggtq.report outputs/runs report.lang=zh report.out=report_zh
  python -m vggtq.report template=paper
"""
OPTIONS = {"report.lang": "en", "report.out": "outputs/report", "report.template": "standard"}


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 no record to report, 2 a wrong option or folder."""
    if "--help" in argv or "-h" in argv:
        return _print(HELP)
    gc.set_threshold(
        100_000
    )  # rows hold no cycles: to look for some among thousands of them takes longer than charts
    try:
        folders, options = parse(argv)
        report = build_report(
            folders, Path(options["report.out"]), options["report.lang"], options["report.template"]
        )
    except ConfigError as error:
        return _fail(error, 2)
    except (VggtqError, OSError) as error:
        return _fail(error, 1)
    return _print(_summary(report, options["report.lang"]))


def _summary(report: Report, lang: str) -> str:
    """The table, why runs failed, and the files that were written."""
    from rich.console import Console

    t = translator(lang)
    # a file has no width of its own, and 80 columns would fold every number
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as table:
        console.print(groups_table(report.groups, lang))
    failed = [row for group in report.groups for row in group.failed[:DRAWN_ROWS]]
    lines = [f"{t('failed')}{t('colon')}{row['title']}{t('colon')}{reason(row)}" for row in failed]
    return table.get() + "\n".join([*lines, *map(str, report.files), *report.hints]) + "\n"


def _print(words: str) -> int:
    """Print; whoever reads may stop early, as `head` does."""
    try:
        print(words, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    return 0


def parse(argv: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders and options; ConfigError for an option that does not exist."""
    folders, options = [], dict(OPTIONS)
    for argument in argv:
        key, equals, value = argument.partition("=")
        key = f"report.{key}" if f"report.{key}" in OPTIONS else key
        if argument.startswith("-") or (equals and not Path(argument).exists()):
            if key not in OPTIONS:
                valid = ", ".join(OPTIONS)
                raise ConfigError(f"unknown option {key}; options are {valid}{did_you_mean(key, OPTIONS)}")
            if not value:
                raise ConfigError(f"{key} needs a value, such as {key}={OPTIONS[key]}")
            options[key] = value
        else:
            folders.append(Path(argument))
    default = Path("outputs")
    if not folders and not default.is_dir():
        raise DataError(nothing_found([default], Collection()))
    return folders or [default], options


def _fail(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
