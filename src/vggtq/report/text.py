"""`comprehensive_report.txt`: every metric of every run, to be read in a terminal or a mail."""

from collections.abc import Sequence

from vggtq.report.columns import GEOMETRY, METRICS, OUTPUTS, POSE, REFERENCES
from vggtq.report.frame import Row
from vggtq.report.groups import Group
from vggtq.report.i18n import Translate
from vggtq.report.recommend import Choice
from vggtq.report.records import Unreadable
from vggtq.report.shortlist import READ_ROWS
from vggtq.report.wording import (
    DASH,
    choice_name,
    describe_group,
    explain,
    fixed,
    grade,
    group_notes,
    mib,
    psnr,
    short,
    speedup,
)

_WIDTH = 100
MEMORY_PEAKS = {"rss": "peak_rss_bytes", "cuda": "cuda_peak_bytes"}


def heading(title: str, mark: str = "=") -> list[str]:
    return ["", title, mark * min(_width(title), _WIDTH)]


def group_text(group: Group, choices: Sequence[Choice], chart: str | None, t: Translate) -> list[str]:
    """The lines of one group: recommendations first, then the metrics of each run, then its failures."""
    lines = heading(t("group", number=group.number) if group.number else t("homeless"))
    if group.number:
        lines += wrap(describe_group(group, t))
    for note in group_notes(group, t):
        lines += wrap(f"! {note}")
    if chart:
        lines.append(t("charts", file=chart))
    if choices:
        lines += heading(t("recommendations"), "-")
        for choice in choices:
            lines.append(t(f"need.{choice.need}") + t("colon") + " ".join(choice_name(choice, t).split()))
            lines += wrap(explain(choice, t), "    ")
    if group.ok:
        lines += heading(t("details"), "-")
        shown = group.shown(READ_ROWS)
        if len(shown) < len(group.ok):
            lines += wrap(t("cut", n=len(shown), all=len(group.ok)))
        for row in shown:
            lines += ["", *row_text(row, t)]
    if group.failed:
        lines += heading(t("failures"), "-")
        for row in group.failed[:READ_ROWS]:
            lines += wrap(f"{row['title']}{t('colon')}{row['error'] or '?'}", "    ", first="")
        if len(group.failed) > READ_ROWS:
            lines.append(t("cut.failed", n=len(group.failed) - READ_ROWS))
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
    headings = [t("output"), *METRICS, *(t(name) for name in ("non_finite", "identical", "grade"))]
    lines += aligned([headings, *([output, *_metrics(row, output, t)] for output in OUTPUTS)])
    poses = [f"{name} {short(row[f'pose.{name}'])}" for name in POSE if row[f"pose.{name}"] is not None]
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


def _metrics(row: Row, output: str, t: Translate) -> list[str]:
    known = {metric: short(row[f"{output}.{metric}"]) for metric in METRICS}
    values = (known | {"psnr": psnr(row, output, t)}).values()
    same = {True: t("yes"), False: t("no"), None: DASH}[row[f"{output}.identical"]]
    judged = row[f"{output}.grade"]
    return [*values, short(row[f"{output}.non_finite"]), same, t(judged) if judged else DASH]


def _truth(row: Row, name: str) -> str:
    return f"{short(row[f'geometry.quantized.{name}'])} ({short(row.get(f'geometry.reference.{name}'))})"


def _geometry_names(row: Row) -> list[str]:
    """The usual metrics first, then whatever else the run measured."""
    prefix = "geometry.quantized."
    names = dict.fromkeys(GEOMETRY) | {name[len(prefix) :]: None for name in row if name.startswith(prefix)}
    return [name for name in names if row.get(prefix + name) is not None]


def unreadable_text(unreadable: Sequence[Unreadable], t: Translate) -> list[str]:
    lines = [f"{item.path}{t('colon')}{item.told(t)}" for item in unreadable[:READ_ROWS]]
    rest = len(unreadable) - READ_ROWS
    return [*heading(t("unreadable")), *lines, *([t("cut.files", n=rest)] if rest > 0 else [])]


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
