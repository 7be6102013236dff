"""`report.template=handin`: a folder to hand in, five short documents filled from the data, and the results as one table.

1 design, 2 process, 3 results, 4 analysis, 5 conclusion, about the main group of comparable runs. They are made of the same
parts as `paper.md`, so that both say the same.
"""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vggtq.metrics.metric import Metric
from vggtq.metrics.table import metrics
from vggtq.network.outputs import OUTPUTS
from vggtq.report.documents.paper import (
    CHART,
    commands_of,
    main_group,
    results_table,
    schemes_table,
    setup,
)
from vggtq.report.documents.paper_analysis import analysis, conclusion
from vggtq.report.documents.results import Report
from vggtq.report.documents.tables import Cell, escape, markdown_table, rows_table
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.rows.sources import Source
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import column_heading, fixed, metric_cell, scene_notes

FOLDER = "handin"


def _metrics() -> list[Metric]:
    """Those of every output that have a name for readers."""
    return [metric for metric in metrics("output") if metric.label[0]]


def handin_files(report: Report, t: Translate) -> dict[str, str | Path]:
    """The contents of the folder's files by name; of the chart the file to copy."""
    found = main_group(report)
    if found is None:
        return {f"{FOLDER}/README.md": t("paper.nothing")}
    group, source = found
    parts = {
        "1_design": _design(group, source, t),
        "2_process": _process(report, group, source, t),
        "3_results": _results(group, t),
        "4_analysis": analysis(group, t),
        "5_conclusion": [conclusion(group, t)],
    }
    files: dict[str, str | Path] = {
        f"{FOLDER}/{name}.md": "\n\n".join([f"# {t(f'handin.{name}')}", *paragraphs])
        for name, paragraphs in parts.items()
    }
    files |= {f"{FOLDER}/{CHART}": path for path in report.files if path.name == CHART}
    return files | {f"{FOLDER}/metrics.csv": _metrics_csv(group.ok)}


def _design(group: Group, source: Source, t: Translate) -> list[str]:
    model = escape(group.first("model") or "?")
    compared = t("paper.goal.text", n=sum(bool(row["quantized_layers"]) for row in group.ok), model=model)
    return [
        t("handin.author"),
        compared,
        f"## {t('handin.setup')}",
        *setup(group, source, t),
        f"## {t('handin.schemes')}",
        schemes_table(group, t),
    ]


def _process(report: Report, group: Group, source: Source, t: Translate) -> list[str]:
    versions = sorted(
        (key.rpartition(".")[2], value)
        for key, value in source.environment.items()
        if key.startswith("versions.")
    )
    outputs = [[name, t(f"handin.output.{name}")] for name in OUTPUTS]
    times = [
        [row["title"], fixed(row["total_s"], 1), fixed(row["fp32.comparable_ms_median"], 1)]
        for row in group.shown(DRAWN_ROWS)
    ]
    return [
        t("handin.steps"),
        f"## {t('handin.outputs')}",
        markdown_table([t("handin.key"), t("handin.meaning")], outputs, 2),
        f"## {t('handin.times')}",
        markdown_table([t("label"), t("handin.seconds"), t("handin.milliseconds")], times),
        f"## {t('handin.versions')}",
        t("comma").join(f"{name} {value}" for name, value in versions),
        f"## {t('handin.commands')}",
        commands_of(report, group, "handin", t),
    ]


def _results(group: Group, t: Translate) -> list[str]:
    parts = [results_table(group, t), t("paper.results.note"), *scene_notes(group, t)]
    parts += [f"![{t('charts', file=CHART)}]({CHART})"]
    parts += [f"## {t('handin.fidelity')}", t("handin.fidelity.note")]
    rows = [row for row in group.shown(DRAWN_ROWS) if row["quantized_layers"]]
    for output in OUTPUTS:
        columns: list[Cell] = [(t("label"), lambda row: row["title"])]
        for metric in _metrics():
            column = f"{output}.{metric.key}"
            heading = column_heading(metric, column, t).removeprefix(f"{output} ")
            columns.append((heading, partial(metric_cell, metric, column, t=t)))
        parts += [f"### `{output}`", rows_table(columns, rows)]
    failed = [[row["title"], row["error"] or "?"] for row in group.failed]
    parts += [f"## {t('failed')}", markdown_table([t("label"), t("reason")], failed, 2)] if failed else []
    return parts


def _metrics_csv(rows: Sequence[Row]) -> str:
    """Every scheme × output × metric, for further computations."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [metric.key for metric in _metrics()]
    writer.writerow(["scheme", "output", *names])
    for row in rows:
        for output in OUTPUTS:
            writer.writerow([row["title"], output, *(row.get(f"{output}.{name}") for name in names)])
    return text.getvalue().rstrip("\n")
