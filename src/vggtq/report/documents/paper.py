"""`report.template=paper`: a report in prose, `paper.md`, and its table for LaTeX, `results.tex`.

Goal, setup, schemes, results, charts, analysis, conclusion, commands. It is about the main group of comparable runs, of a large
one about those rows that charts show. Every number comes from the rows.
"""

from collections.abc import Sequence

from vggtq.report.documents.latex import latex_table
from vggtq.report.documents.paper_analysis import analysis, conclusion
from vggtq.report.documents.results import Report
from vggtq.report.documents.tables import Cell, cells, escape, rows_table
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.rows.sources import Source
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import (
    DASH,
    cut_note,
    fixed,
    listed,
    mib,
    scene_notes,
    short,
    weights_in_words,
)

CHART = "comprehensive_visualizations.png"


def paper_files(report: Report, t: Translate) -> dict[str, str]:
    """The contents of the template's files by name."""
    found = main_group(report)
    if found is None:
        return {"paper.md": t("paper.nothing")}
    group, source = found
    return {
        "paper.md": _markdown(report, group, source, t),
        "results.tex": latex_table(group, t, report.columns),
    }


def main_group(report: Report) -> tuple[Group, Source] | None:
    """The first group of comparable runs with a result, and where its first row comes from."""
    group = next((group for group in report.groups if group.number and group.ok), None)
    if group is None:
        return None
    return group, next(source for source in report.sources if source.row is group.ok[0])


def _markdown(report: Report, group: Group, source: Source, t: Translate) -> str:
    model = escape(group.first("model") or "?")
    parts = [f"# {t('paper.title', model=model)}", f"## {t('paper.goal')}"]
    parts += [
        t("paper.goal.text", n=sum(bool(row["quantized_layers"]) for row in group.ok), model=model),
        f"## {t('paper.setup')}",
        *setup(group, source, t),
    ]
    parts += [f"## {t('paper.schemes')}", schemes_table(group, t)]
    parts += [
        f"## {t('paper.results')}",
        results_table(group, t, report.columns),
        t("paper.results.note"),
        *scene_notes(group, t),
        t("paper.cite"),
    ]
    parts += _left_out(report, group, t)
    parts += [f"## {t('paper.charts')}", f"![{t('charts', file=CHART)}]({CHART})"]
    parts += [f"## {t('paper.analysis')}", *analysis(group, t)]
    parts += [f"## {t('paper.conclusion')}", conclusion(group, t)]
    return "\n\n".join([*parts, f"## {t('paper.appendix')}", commands_of(report, group, "paper", t)])


def schemes_table(group: Group, t: Translate) -> str:
    """The table of schemes and their definitions; of a large group those rows that charts show, with a line
    that says so.
    """
    table = rows_table(_scheme_cells(t), group.shown(DRAWN_ROWS), left=4)
    return "\n\n".join([table, t("paper.bits.note"), *cut_note(group, DRAWN_ROWS, t)])


def results_table(group: Group, t: Translate, names: Sequence[str] = ()) -> str:
    """The table of results of each scheme, with the same rows; `names` of metrics choose its columns."""
    return rows_table(cells("paper", group.ok, t, names), group.shown(DRAWN_ROWS))


def commands_of(report: Report, group: Group, template: str, t: Translate) -> str:
    """A block with the command behind each row, and that of the report."""
    commands = dict.fromkeys(row["command"] for row in group.shown(DRAWN_ROWS) if row["command"])
    return f"{t('paper.commands')}\n\n{_code([*commands, _own_command(report, template, t)])}"


def setup(group: Group, source: Source, t: Translate) -> list[str]:
    """Model, data, hardware and measures, a paragraph each."""
    row, environment = group.ok[0], source.environment
    model = {"model": escape(row["model"] or "?"), "weights": escape(weights_in_words(row["weights"], t))}
    model |= _millions(row["parameters"] or 0, t) | {"size": mib(row["float32_bytes"])}
    has_truth = any(name.startswith("geometry.reference.") and row[name] is not None for name in row)
    data = {
        "dataset": escape(row["dataset"] or "?"),
        "scenes": row["scenes"] or 0,
        "frames": row["frames"] or 0,
    }
    hardware = {
        "hardware": escape(row["hardware"] or "?"),
        "device": row["device"],
        "threads": row["threads"] or 0,
    }
    versions = {"torch": environment.get("versions.torch", "?"), "vggtq": environment.get("vggtq", "?")}
    truth = t("paper.data.truth" if has_truth else "paper.data.no_truth")
    return [
        t("paper.model", fingerprint=str(row["fingerprint"])[:12], **model),
        t("paper.data", truth=truth, **data),
        t("paper.hardware", **hardware, **versions),
        t("paper.measures"),
        *([t("paper.random")] if row["weights"] == "random" else []),
    ]


def _millions(parameters: float, t: Translate) -> dict[str, str]:
    """In millions, and in the units of 10⁴ and 10⁸ that Chinese counts by."""
    few = parameters < 1e8
    wan = t("paper.wan" if few else "paper.yi", n=fixed(parameters / (1e4 if few else 1e8), 0 if few else 1))
    return {"parameters": fixed(parameters / 1e6, 1), "wan": wan}


def _scheme_cells(t: Translate) -> list[Cell]:
    return [
        (t("label"), lambda row: row["title"]),
        (t("paper.weights"), lambda row: _bits(row, t)),
        (t("paper.scale"), lambda row: _scale(row, t)),
        (t("paper.activations"), lambda row: _activations(row, t)),
        (t("paper.layers"), lambda row: short(row["quantized_layers"])),
        (t("paper.bits"), lambda row: fixed(row["bits_per_weight"])),
    ]


def _bits(row: Row, t: Translate) -> str:
    if row["bits"] is None:
        return DASH
    return f"{t('paper.bit', bits=row['bits'])} {row['format'] or ''}".strip()


def _scale(row: Row, t: Translate) -> str:
    if not row["quantized_layers"] or row["granularity"] in (None, "none"):
        return DASH
    key = f"paper.scale.{row['granularity']}"
    return t(key, size=row["group_size"])


def _activations(row: Row, t: Translate) -> str:
    return t("paper.float") if row["activation_bits"] is None else t("paper.bit", bits=row["activation_bits"])


def _left_out(report: Report, group: Group, t: Translate) -> list[str]:
    names = listed([escape(row["title"]) for row in group.failed], 5, t)
    others = sum(1 for other in report.groups if other.number and other is not group)
    return [
        *([t("paper.failed", n=len(group.failed), names=names)] if group.failed else []),
        *([t("paper.others", n=others)] if others else []),
    ]


def _own_command(report: Report, template: str, t: Translate) -> str:
    words = ["vggtq report", *map(str, report.folders), f"report.template={template}"]
    words += [f"report.columns=[{','.join(report.columns)}]"] if report.columns else []
    words.append(t("paper.lang"))
    return " ".join(filter(None, words))


def _code(lines: Sequence[str]) -> str:
    """A fenced block; its fence is longer than any run of backquotes inside."""
    longest = max((len(run) for line in lines for run in line.split() if set(run) == {"`"}), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *(" ".join(line.split("\n")) for line in lines), fence])
