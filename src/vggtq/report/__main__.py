"""`python -m vggtq.report [folders…] [key=value…]`"""

import sys
from collections.abc import Sequence
from pathlib import Path

from vggtq.errors import ConfigError, DataError, VggtqError, did_you_mean
from vggtq.report.build import build_report, nothing_found
from vggtq.report.records import Collection
from vggtq.report.tables import summary_table

HELP = """\
Merge the result.json of many runs into tables, charts and a recommendation.

  python -m vggtq.report [folders…] [key=value…]

folders      where to look, at any depth; without any: outputs
report.lang  en (default) or zh
report.out   folder for the report, default outputs/report

Writes comparison.csv, comparison.md, comprehensive_results.json, comprehensive_report.txt and
comprehensive_visualizations.png (one more page, _2 and so on, for each group of comparable runs).

  python -m vggtq.report
  python -m vggtq.report outputs/runs report.lang=zh report.out=report_zh
"""
OPTIONS = {"report.lang": "en", "report.out": "outputs/report"}


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 no record to report, 2 a wrong option or folder."""
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    try:
        folders, options = parse(argv)
        report = build_report(folders, Path(options["report.out"]), options["report.lang"])
    except ConfigError as error:
        return _fail(error, 2)
    except (VggtqError, OSError) as error:
        return _fail(error, 1)
    from rich.console import Console

    # a file has no width of its own, and 80 columns would fold every number
    Console(width=None if sys.stdout.isatty() else 140).print(
        summary_table(report.frame, options["report.lang"])
    )
    for path in report.files:
        print(path)
    return 0


def parse(argv: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders and options; ConfigError for an option that does not exist."""
    folders, options = [], dict(OPTIONS)
    for argument in argv:
        key, equals, value = argument.partition("=")
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
