"""`report.template=paper`: a report in prose, `paper.md`, and its table for LaTeX, `results.tex`.

Goal, setup, schemes, results, charts, analysis, conclusion, commands. It is about the main group of comparable runs, of a large
one about those rows that charts show. Every number comes from the rows.
"""

from collections.abc import Sequence

from vggtq.report.frame import Row
from vggtq.report.groups import Group
from vggtq.report.i18n import Translate
from vggtq.report.latex import latex_table
from vggtq.report.paper_analysis import analysis, conclusion
from vggtq.report.results import Report
from vggtq.report.shortlist import DRAWN_ROWS
from vggtq.report.sources import Source
from vggtq.report.tables import Cell, escape, markdown_table, truth_cell
from vggtq.report.wording import DASH, fixed, grade, mib, short, speedup

CHART = "comprehensive_visualizations.png"


def paper_files(report: Report, t: Translate) -> dict[str, str]:
    """The contents of the template's files by name."""
    group = next((group for group in report.groups if group.number and group.ok), None)
    if group is None:
        return {"paper.md": t("paper.nothing")}
    source = next(source for source in report.sources if source.row is group.ok[0])
    return {
        "paper.md": _markdown(report, group, source, t),
        "results.tex": latex_table(group, result_cells(t), t),
    }


def _markdown(report: Report, group: Group, source: Source, t: Translate) -> str:
    rows, model = group.shown(DRAWN_ROWS), escape(group.first("model") or "?")
    parts = [f"# {t('paper.title', model=model)}", f"## {t('paper.goal')}"]
    parts += [
        t("paper.goal.text", n=sum(bool(row["quantized_layers"]) for row in group.ok), model=model),
        f"## {t('paper.setup')}",
        *_setup(group, source, t),
    ]
    parts += [f"## {t('paper.schemes')}", _table(rows, _scheme_cells(t), 4)]
    parts += [t("cut", n=len(rows), all=len(group.ok))] if len(rows) < len(group.ok) else []
    parts += [
        f"## {t('paper.results')}",
        _table(rows, result_cells(t), 1),
        t("paper.results.note"),
        t("paper.cite"),
    ]
    parts += _left_out(report, group, t)
    parts += [f"## {t('paper.charts')}", f"![{t('charts', file=CHART)}]({CHART})"]
    parts += [f"## {t('paper.analysis')}", *analysis(group, t)]
    parts += [f"## {t('paper.conclusion')}", conclusion(group, t)]
    commands = dict.fromkeys(row["command"] for row in rows if row["command"])
    return "\n\n".join([*parts, f"## {t('paper.appendix')}", _code([*commands, _own_command(report)])])


def _setup(group: Group, source: Source, t: Translate) -> list[str]:
    row, environment = group.ok[0], source.environment
    kind = "weights.random" if row["weights"] == "random" else "weights.named"
    model = {"model": escape(row["model"] or "?"), "weights": t(kind, weights=escape(row["weights"] or "?"))}
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


def result_cells(t: Translate) -> list[Cell]:
    """The columns of the results, unescaped; LaTeX has the same."""
    return [
        (t("label"), lambda row: row["title"]),
        (t("size"), lambda row: mib(row["stored_bytes"])),
        (t("x_fp32"), lambda row: fixed(row["compression_vs_fp32"])),
        (t("speedup"), speedup),
        (t("mean_error"), lambda row: short(row["mean_relative_error"])),
        (t("auc"), lambda row: truth_cell(row, "pose.auc_30")),
        (t("abs_rel"), lambda row: truth_cell(row, "depth.abs_rel")),
        (t("grade"), lambda row: grade(row, t)),
    ]


def _table(rows: Sequence[Row], cells: Sequence[Cell], left: int) -> str:
    lines = [[escape(cell(row)) for _, cell in cells] for row in rows]
    return markdown_table([escape(heading) for heading, _ in cells], lines, left)


def _left_out(report: Report, group: Group, t: Translate) -> list[str]:
    names = [escape(row["title"]) for row in group.failed]
    others = sum(1 for other in report.groups if other.number and other is not group)
    shown = t("comma").join(names[:5]) + (" …" if len(names) > 5 else "")
    return [
        *([t("paper.failed", n=len(names), names=shown)] if names else []),
        *([t("paper.others", n=others)] if others else []),
    ]


def _own_command(report: Report) -> str:
    folders = " ".join(map(str, report.folders))
    return f"python -m vggtq.report {folders} report.template=paper".replace("  ", " ")


def _code(lines: Sequence[str]) -> str:
    """A fenced block; its fence is longer than any run of backquotes inside."""
    longest = max((len(run) for line in lines for run in line.split() if set(run) == {"`"}), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *(" ".join(line.split("\n")) for line in lines), fence])
