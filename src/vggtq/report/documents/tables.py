"""The comparison as a Markdown table and as a table in the terminal. User-supplied names are escaped in both."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vggtq.report.rows.collection import Unreadable
from vggtq.report.rows.columns import shown, shown_truth
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS, READ_ROWS
from vggtq.report.rows.sources import Source
from vggtq.report.words.texts import Translate, translator
from vggtq.report.words.wording import (
    DASH,
    answer,
    choice_name,
    column_heading,
    cut_note,
    describe_group,
    explain,
    grade,
    group_name,
    group_notes,
    metric_cell,
    narrow_cell,
    narrow_heading,
    reason,
    rest_note,
    scene_notes,
    title_of,
    why_unreadable,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


_ASCII_SPECIAL = re.compile(r"([\\`*\[\]|~])|(?<!\w)(_)|(_)(?!\w)")

Cell = tuple[str, Callable[[Row], str]]  # heading, and a function from a row to its cell


def escape(text: str) -> str:
    """`text` as one line that Markdown shows as it is, also inside a table."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ASCII_SPECIAL.sub(lambda match: "\\" + match.group(0), line)


def cells(place: str, rows: Sequence[Row], t: Translate, names: Sequence[str] = ()) -> list[Cell]:
    """The cells of a table in one of `vggtq.metrics.metric.PLACES`, unescaped: label, metrics, grade; of `names`, label and the
    metrics of these names.
    """
    heading, cell = (narrow_heading, narrow_cell) if place == "terminal" else (column_heading, metric_cell)
    found: list[Cell] = [
        (t("label"), title_of),
        *(
            (heading(metric, column, t), partial(cell, metric, column, t=t))
            for metric, column in shown(place, rows, names)
        ),
    ]
    if not names:
        found.append((t("grade"), lambda row: grade(row, t) if row["status"] == "ok" else t("failed")))
    return found


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A GitHub table, its cells escaped; all but the first `left` columns are right-aligned."""
    head, *rest = ([escape(cell) for cell in line] for line in (headings, *lines))
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def rows_table(columns: Sequence[Cell], rows: Sequence[Row], left: int = 1) -> str:
    return markdown_table(
        [heading for heading, _ in columns], [[cell(row) for _, cell in columns] for row in rows], left
    )


def group_markdown(group: Group, chart: str | None, t: Translate) -> str:
    """The section of one group: its common facts, its table, its failures, its recommendations."""
    parts = [f"## {group_name(group, t)}", escape(describe_group(group, t))]
    parts += [f"**{escape(answer(group, t))}**"] if group.number and group.ok else []
    parts += [f"> {note}" for note in group_notes(group, t)]
    if group.ok:
        label, *others = cells("table", group.ok, t)
        columns = [label, (t("status"), lambda row: t(row["status"])), *others]
        parts += [*cut_note(group, READ_ROWS, t), rows_table(columns, group.shown(READ_ROWS), left=2)]
    if group.failed:
        failures = [[row["title"], t("failed"), reason(row)] for row in group.failed[:READ_ROWS]]
        parts.append(markdown_table([t("label"), t("status"), t("reason")], failures, left=3))
        parts += rest_note("cut.failed", group.failed, READ_ROWS, t)
    if group.choices:
        lines = [(t(f"need.{c.need}"), choice_name(c, t), explain(c, t)) for c in group.choices]
        parts += [f"### {t('recommendations')}", markdown_table([t("need"), t("choice"), t("why")], lines, 3)]
    if chart:
        parts.append(f"![{t('charts', file=chart)}]({chart})")
    return "\n\n".join(filter(None, parts))


def refused_markdown(refused: Sequence[Source], t: Translate) -> str:
    """Folded, for they say nothing of the schemes."""
    lines = [(str(item.path.parent), item.row["error"] or "?") for item in refused[:READ_ROWS]]
    table = markdown_table([t("file"), t("reason")], lines, left=2)
    rest = rest_note("cut.files", refused, READ_ROWS, t)
    summary = f"<summary>{t('refused_note', n=len(refused))}</summary>"
    return "\n\n".join([f"<details>{summary}", table, *rest, "</details>"])


def unreadable_markdown(unreadable: Sequence[Unreadable], t: Translate) -> str:
    lines = [(str(item.path), why_unreadable(item, t)) for item in unreadable[:READ_ROWS]]
    table = markdown_table([t("file"), t("reason")], lines, left=2)
    rest = rest_note("cut.files", unreadable, READ_ROWS, t)
    return "\n\n".join([f"## {t('unreadable')}", table, *rest])


def groups_table(groups: Sequence[Group], lang: str = "en") -> "Table":
    """The short comparison for the terminal, as printed after a run or a sweep; of a large group, as much as a
    screen can show.
    """
    from rich.table import Table
    from rich.text import Text

    t = translator(lang)
    columns = cells("terminal", [row for group in groups for row in group.rows], t)
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
    """The meaning of the group numbers and of †, where they are used."""
    from rich.text import Text

    lines = [f"{group.number}{t('colon')}{describe_group(group, t)}" for group in groups if group.number]
    lines = lines if len(groups) > 1 else []
    sizes = [len(rows) for group in groups for rows in (group.ok, group.failed)]
    if max(sizes, default=0) > DRAWN_ROWS:
        lines.append(t("cut", n=sum(min(size, DRAWN_ROWS) for size in sizes), all=sum(sizes)))
    if any(row["calibrated_elsewhere"] for group in groups for row in group.ok):
        lines.append(t("calibration_note"))
    if shown_truth("terminal", [row for group in groups for row in group.ok]):
        lines.append(t("terminal_note"))
    for group in groups:
        prefix = f"{group.number}{t('colon')}" if len(groups) > 1 else ""
        lines += [prefix + note for note in scene_notes(group, t)]
    if any(row["simulated"] is not False and row["fp32.speedup"] is not None for g in groups for row in g.ok):
        lines.append(t("simulated_caption"))
    return Text("\n".join(lines)) if lines else None
