"""Networks on the same scenes, one row for each network and scheme, as Markdown and as the cells of the page."""

from collections.abc import Sequence

from vggtq.report.documents.tables import markdown_table
from vggtq.report.rows.networks import Compared, Networks
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import DASH, beside, column_heading, fixed, mib


def networks_markdown(tables: Sequence[Networks], t: Translate) -> list[str]:
    if not tables:
        return []
    parts = [f"## {t('networks')}"]
    for table in tables:
        parts += [
            networks_intro(table, t),
            markdown_table(networks_headings(table, t), networks_lines(table), 2),
        ]
    return parts


def networks_intro(table: Networks, t: Translate) -> str:
    return t("networks.intro", baseline=table.baseline, scenes=table.scenes)


def networks_headings(table: Networks, t: Translate) -> list[str]:
    scores = [column_heading(metric, metric.name, t) for metric in table.metrics]
    return [t("networks.network"), t("label"), "MiB", "× FP32", *scores]


def networks_lines(table: Networks) -> list[list[str]]:
    return [
        [name, row["title"], mib(row["stored_bytes"]), fixed(row["compression_vs_fp32"])]
        + [_cell(own.get(metric.name), metric.decimals) for metric in table.metrics]
        for name, row, own in table.rows
    ]


def _cell(compared: Compared | None, decimals: int | None) -> str:
    if compared is None or compared.value is None:
        return DASH
    return beside(compared.value, compared.baseline, compared.change, compared.verdict, decimals)
