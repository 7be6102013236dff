"""`comprehensive_report.txt`: every metric of every run, to be read in a terminal or a mail."""

from collections.abc import Sequence

from vggtq.metrics.metric import FIDELITY, REFERENCES, TRUTH, Metric
from vggtq.metrics.table import metrics
from vggtq.network.outputs import OUTPUTS
from vggtq.report.rows.collection import Unreadable
from vggtq.report.rows.groups import Group
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import READ_ROWS
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import (
    DASH,
    answer,
    choice_name,
    cut_note,
    describe_group,
    explain,
    fixed,
    grade,
    group_name,
    group_notes,
    metric_cell,
    mib,
    rest_note,
    short,
    speedup,
    why_unreadable,
)

_WIDTH = 100
MEMORY_PEAKS = {"rss": "peak_rss_bytes", "cuda": "cuda_peak_bytes"}


def heading(title: str, mark: str = "=") -> list[str]:
    return ["", title, mark * min(_width(title), _WIDTH)]


def group_text(group: Group, chart: str | None, t: Translate) -> list[str]:
    """The lines of one group: recommendations first, then the metrics of each run, then its failures."""
    lines = heading(group_name(group, t))
    for words in (describe_group(group, t), *(f"! {note}" for note in group_notes(group, t))):
        lines += wrap(words) if words else []
    if group.number and group.ok:
        lines += wrap(answer(group, t))
    if chart:
        lines.append(t("charts", file=chart))
    if group.choices:
        lines += heading(t("recommendations"), "-")
        for choice in group.choices:
            lines.append(t(f"need.{choice.need}") + t("colon") + " ".join(choice_name(choice, t).split()))
            lines += wrap(explain(choice, t), "    ")
    if group.ok:
        lines += heading(t("details"), "-")
        for note in cut_note(group, READ_ROWS, t):
            lines += wrap(note)
        for row in group.shown(READ_ROWS):
            lines += ["", *row_text(row, t)]
    if group.failed:
        lines += heading(t("failures"), "-")
        for row in group.failed[:READ_ROWS]:
            lines += wrap(f"{row['title']}{t('colon')}{row['error'] or '?'}", "    ", first="")
        lines += rest_note("cut.failed", group.failed, READ_ROWS, t)
    return lines


def row_text(row: Row, t: Translate) -> list[str]:
    """Every metric of one successful run."""
    lines = [" ".join(str(row["title"]).split())]
    sizes = {"stored": mib(row["stored_bytes"]), "resident": mib(row["resident_bytes"])}
    times = {"x_fp32": fixed(row["compression_vs_fp32"]), "x_fp16": fixed(row["compression_vs_fp16"])}
    lines.append(t("line.size", **sizes, **times, bits=fixed(row["bits_per_weight"])))
    lines += _speed(row, t)
    lines.append(_memory(row, t))
    lines.append(t("line.error", error=short(row["mean_relative_error"]), grade=grade(row, t)))
    measured = [m for m in metrics(*FIDELITY) if any(column in row for column in m.columns)]
    ends = [t(name) for name in ("non_finite", "identical", "grade")]
    headings = [t("output"), *(metric.key for metric in measured), *ends]
    given = [output for output in OUTPUTS if row[f"{output}.non_finite"] is not None] or OUTPUTS
    lines += aligned([headings, *([output, *_metrics(row, output, measured, t)] for output in given)])
    cameras = [metric for metric in metrics("cameras") if row.get(metric.name) is not None]
    poses = [f"{metric.key} {short(row[metric.name])}" for metric in cameras]
    if poses:
        lines.append(t("line.pose", values=", ".join(poses)))
    if names := _geometry_names(row):
        lines.append(t("line.geometry"))
        lines += wrap(", ".join(f"{name} {_truth(row, name)}" for name in names), " " * 10)
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _speed(row: Row, t: Translate) -> list[str]:
    lines = []
    for name in REFERENCES:
        if row[f"{name}.speedup"] is not None:
            milliseconds = {
                side: fixed(row[f"{name}.{side}_ms_median"]) for side in ("reference", "quantized")
            }
            lines.append(t("line.speed", name=name.upper(), speedup=speedup(row, name), **milliseconds))
    return lines or [t("line.untimed")]


def _memory(row: Row, t: Translate) -> str:
    """Peaks of both models; the level before loading belongs to Python and torch."""
    where = "cuda" if row["memory.quantized.cuda_peak_bytes"] is not None else "rss"
    peaks = {side: mib(row[f"memory.{side}.{MEMORY_PEAKS[where]}"]) for side in ("quantized", "reference")}
    base = mib(row["memory.quantized.rss_before_load_bytes"])
    return t(f"line.memory.{where}", **peaks, base=base)


def _metrics(row: Row, output: str, measured: Sequence[Metric], t: Translate) -> list[str]:
    values = [metric_cell(metric, f"{output}.{metric.key}", row, t) for metric in measured]
    same = {True: t("yes"), False: t("no"), None: DASH}[row[f"{output}.identical"]]
    judged = row[f"{output}.grade"]
    return [*values, short(row[f"{output}.non_finite"]), same, t(judged) if judged else DASH]


def _truth(row: Row, name: str) -> str:
    return f"{short(row[f'geometry.quantized.{name}'])} ({short(row.get(f'geometry.reference.{name}'))})"


def _geometry_names(row: Row) -> list[str]:
    """The usual metrics first, then whatever else the run measured."""
    prefix = "geometry.quantized."
    names = {metric.name: None for metric in metrics(*TRUTH)} | {
        name[len(prefix) :]: None for name in row if name.startswith(prefix)
    }
    return [name for name in names if row.get(prefix + name) is not None]


def unreadable_text(unreadable: Sequence[Unreadable], t: Translate) -> list[str]:
    lines = [f"{item.path}{t('colon')}{why_unreadable(item, t)}" for item in unreadable[:READ_ROWS]]
    return [*heading(t("unreadable")), *lines, *rest_note("cut.files", unreadable, READ_ROWS, t)]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded by what a terminal shows: a Chinese character takes two cells."""
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def wrap(text: str, indent: str = "", first: str | None = None) -> list[str]:
    """`text` in lines of at most 100 cells; also Chinese, which has no spaces to break at."""
    lines, current = [], indent if first is None else first
    for word in _words(" ".join(text.split())):
        if _width(current + word.rstrip()) > _WIDTH and current.strip():
            lines.append(current.rstrip())
            current = indent + word.lstrip()
        else:
            current += word
    return [*lines, current.rstrip()]


def _words(text: str) -> list[str]:
    """Pieces a line may be broken after: words with their space, single wide characters with their punctuation."""
    pieces: list[str] = []
    for character in text:
        closing = character in "，。；：、）”"
        breaks = not pieces or pieces[-1].endswith(" ") or (_is_wide(pieces[-1][-1]) and not closing)
        if breaks or (_is_wide(character) and not closing and pieces[-1][-1] not in "（“"):
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces


def _is_wide(character: str) -> bool:
    return _width(character) == 2 and character not in "（“"


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
