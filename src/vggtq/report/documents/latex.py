r"""`results.tex`: the results as a booktabs table to \input. Names that users chose cannot become commands."""

from collections.abc import Sequence

from vggtq.metrics.metric import TRUTH, Metric
from vggtq.report.documents.tables import cells
from vggtq.report.rows.columns import shown
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import DRAWN_ROWS
from vggtq.report.rows.verdicts import few_scenes
from vggtq.report.words.texts import Translate

# What LaTeX takes for commands, and signs that its default fonts lack.
_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "×": r"$\times$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": r"\textendash{}",
    "−": "$-$",
    "°": r"\textdegree{}",
    "±": r"$\pm$",
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
}


def escape_latex(text: str) -> str:
    """`text` as one line that LaTeX prints as it is; control characters become spaces."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    signs = "".join(_SIGNS.get(character, character) for character in line)
    guard = (
        "{}" if line.startswith(("[", "*")) else ""
    )  # at the start of a row, \\ would take these for its argument
    return guard + signs.replace("--", "-{}-").replace(",,", ",{},")


def latex_table(group: Group, t: Translate, names: Sequence[str] = ()) -> str:
    """A `table` with `\toprule`, `\\midrule`, `\bottomrule`; simulated speeds carry a dagger, failed runs are left out.

    names: of metrics, which choose its columns.
    """
    rows = group.shown(DRAWN_ROWS)
    columns = cells("paper", group.ok, t, names)
    caption = _caption(group, rows, [metric for metric, _ in shown("paper", group.ok, names)], t)
    lines = [" & ".join(escape_latex(cell(row)) for _, cell in columns) + r" \\" for row in rows]
    last = "l" if columns[-1][0] == t("grade") else "r"
    words = "".join([caption, *lines])
    engine = "" if all(ord(c) < 0x250 for c in words) else "; XeLaTeX or LuaLaTeX with ctex"
    return "\n".join(
        [
            rf"% \usepackage{{booktabs}}, \usepackage{{graphicx}}, \usepackage{{textcomp}}, \usepackage[T1]{{fontenc}}{engine}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            r"\label{tab:quantization}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 2)}{last}}}",
            r"\toprule",
            " & ".join(escape_latex(heading) for heading, _ in columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _caption(group: Group, rows: Sequence[Row], metrics: Sequence[Metric], t: Translate) -> str:
    """Model, data and device, and how to read the columns of these metrics."""
    first, truth = group.ok[0], [metric for metric in metrics if metric.scope in TRUTH]
    timed = any(metric.scope == "latency" for metric in metrics)
    facts = t(
        "paper.caption",
        model=first["model"] or "?",
        dataset=first["dataset"] or "?",
        scenes=first["scenes"] or 0,
        device=first["hardware"] or first["device"] or "?",
    )
    parts = [facts]
    if any(metric.key == "mean_relative_error" for metric in metrics):
        parts.append(t("paper.caption.error"))
    if timed:
        parts.append(t("paper.caption.speedup"))
    if truth:
        parts.append(t("paper.caption.truth"))
    if few_scenes(rows, truth):
        parts.append(t("few"))
    if any(row["calibrated_elsewhere"] for row in rows):
        parts.append(t("calibration_note"))
    if timed and any(row["simulated"] is not False and row["fp32.speedup"] is not None for row in rows):
        parts.append(t("simulated_caption") + t("full_stop"))
    return t("space").join(parts)
