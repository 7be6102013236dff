"""The comparison as a Markdown table and as a table in the terminal. User-supplied names are escaped in both."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vggtq.report.frame import Row, rows_of
from vggtq.report.groups import Group, group_rows
from vggtq.report.i18n import Translate, translator
from vggtq.report.recommend import Choice
from vggtq.report.records import Unreadable
from vggtq.report.shortlist import DRAWN_ROWS, READ_ROWS
from vggtq.report.wording import (
    DASH,
    beside,
    choice_name,
    describe_group,
    explain,
    fixed,
    grade,
    group_notes,
    mib,
    psnr,
    reason,
    short,
    speedup,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

_ASCII_SPECIAL = re.compile(r"([\\`*\[\]|~])|(?<!\w)(_)|(_)(?!\w)")

Cell = tuple[str, Callable[[Row], str]]  # heading, and what the row has below it


def escape(text: str) -> str:
    """`text` as one line that Markdown shows as it is, also inside a table."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ASCII_SPECIAL.sub(lambda match: "\\" + match.group(0), line)


def cells(t: Translate) -> list[Cell]:
    """The columns of `comparison.md`, unescaped."""
    columns: list[Cell] = [
        (t("label"), lambda row: str(row["title"])),
        (t("status"), lambda row: t(row["status"])),
        (t("size"), lambda row: mib(row["stored_bytes"])),
        (t("x_fp32"), lambda row: fixed(row["compression_vs_fp32"])),
        (t("x_fp16"), lambda row: fixed(row["compression_vs_fp16"])),
        (t("speedup"), speedup),
        (t("mean_error"), lambda row: short(row["mean_relative_error"])),
    ]
    for output in ("depth", "world_points"):
        columns += _output_cells(output, t)
    return [
        *columns,
        (t("rotation"), lambda row: short(row["pose.rotation_deg_mean"])),
        (t("auc"), lambda row: truth_cell(row, "pose.auc_30")),
        (t("abs_rel"), lambda row: truth_cell(row, "depth.abs_rel")),
        (t("point_error"), lambda row: truth_cell(row, "points.relative_error_median")),
        (t("grade"), lambda row: grade(row, t)),
    ]


def _output_cells(output: str, t: Translate) -> list[Cell]:
    return [
        (f"{output} MAE", lambda row: short(row[f"{output}.mae"])),
        (f"{output} cosine", lambda row: fixed(row[f"{output}.cosine"], 5)),
        (f"{output} PSNR (dB)", lambda row: psnr(row, output, t)),
    ]


def truth_cell(row: Row, column: str) -> str:
    values = (row[f"geometry.{name}"] for name in (f"quantized.{column}", f"reference.{column}"))
    interval = (row[f"geometry.change.{column}.{name}"] for name in ("mean", "low", "high"))
    return beside(*values, *interval)


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A GitHub table of already escaped cells; all but the first `left` columns are right-aligned."""
    rule = ["---" if i < left else "---:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *lines])


def group_markdown(group: Group, choices: Sequence[Choice], chart: str | None, t: Translate) -> str:
    """The section of one group: what it shares, its table, its failures, its recommendations."""
    title = t("group", number=group.number) if group.number else t("homeless")
    parts = [f"## {title}", *([escape(describe_group(group, t))] if group.number else [])]
    parts += [f"> {note}" for note in group_notes(group, t)]
    if group.ok:
        columns = cells(t)
        shown = group.shown(READ_ROWS)
        lines = [[escape(cell(row)) for _, cell in columns] for row in shown]
        parts += [t("cut", n=len(shown), all=len(group.ok))] if len(shown) < len(group.ok) else []
        parts.append(markdown_table([escape(heading) for heading, _ in columns], lines, left=2))
    if group.failed:
        failures = group.failed[:READ_ROWS]
        lines = [[escape(row["title"]), t("failed"), escape(reason(row))] for row in failures]
        parts.append(markdown_table([t("label"), t("status"), t("reason")], lines, left=3))
        rest = len(group.failed) - len(failures)
        parts += [t("cut.failed", n=rest)] if rest else []
    if choices:
        lines = [
            [t(f"need.{choice.need}"), escape(choice_name(choice, t)), escape(explain(choice, t))]
            for choice in choices
        ]
        parts += [f"### {t('recommendations')}"]
        parts += [markdown_table([t("need"), t("choice"), t("why")], lines, left=3)]
    if chart:
        parts.append(f"![{t('charts', file=chart)}]({chart})")
    return "\n\n".join(parts)


def unreadable_markdown(unreadable: Sequence[Unreadable], t: Translate) -> str:
    lines = [[escape(str(item.path)), escape(item.told(t))] for item in unreadable[:READ_ROWS]]
    table = f"## {t('unreadable')}\n\n" + markdown_table([t("file"), t("reason")], lines, left=2)
    rest = len(unreadable) - len(lines)
    return f"{table}\n\n{t('cut.files', n=rest)}" if rest else table


def summary_table(frame: "pd.DataFrame", lang: str = "en") -> "Table":
    """The short comparison for the terminal, as printed after a run or a sweep; one section per group."""
    return groups_table(group_rows(rows_of(frame)), lang)


def groups_table(groups: Sequence[Group], lang: str = "en") -> "Table":
    """The same of rows that are grouped already; of a large group what a screen can show."""
    from rich.table import Table
    from rich.text import Text

    t = translator(lang)
    columns: list[Cell] = [
        (t("label"), lambda row: row["title"]),
        (t("size"), lambda row: mib(row["stored_bytes"])),
        (t("x_fp32"), lambda row: fixed(row["compression_vs_fp32"])),
        (t("speedup"), speedup),
        (t("mean_error"), lambda row: short(row["mean_relative_error"])),
        (t("rotation_short"), lambda row: short(row["pose.rotation_deg_mean"])),
        (t("auc"), lambda row: truth_cell(row, "pose.auc_30")),
        (t("grade"), lambda row: grade(row, t) if row["status"] == "ok" else t("failed")),
    ]
    if len(groups) > 1:
        columns.insert(0, (t("group_short"), lambda row: str(row["group"] or DASH)))
    table = Table(caption=_caption(groups, t), caption_justify="left")
    for i, (heading, _) in enumerate(columns):
        left = i == len(columns) - 1 or heading == t("label")
        # Names may be folded where the terminal is narrow; numbers are read across.
        names = heading == t("label")
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not names)
    for group in groups:
        table.add_section()
        for row in [*group.shown(DRAWN_ROWS), *group.failed[:DRAWN_ROWS]]:
            table.add_row(
                *(Text(cell(row)) for _, cell in columns), style="" if row["status"] == "ok" else "red"
            )
    return table


def _caption(groups: Sequence[Group], t: Translate) -> "Text | None":
    """What the numbers of the groups and † mean, where they are used."""
    from rich.text import Text

    lines = [f"{group.number}{t('colon')}{describe_group(group, t)}" for group in groups if group.number]
    lines = lines if len(groups) > 1 else []
    sizes = [len(rows) for group in groups for rows in (group.ok, group.failed)]
    if max(sizes, default=0) > DRAWN_ROWS:
        lines.append(t("cut", n=sum(min(size, DRAWN_ROWS) for size in sizes), all=sum(sizes)))
    if any(row["simulated"] is not False and row["fp32.speedup"] is not None for g in groups for row in g.ok):
        lines.append(t("simulated_caption"))
    return Text("\n".join(lines)) if lines else None
