"""Numbers and choices in words: the common wording of the tables, the text report and the JSON."""

import math
import textwrap
from collections.abc import Sequence

from vggtq.metrics.interval import Interval
from vggtq.metrics.metric import FIDELITY, TRUTH, Metric
from vggtq.records.reading import NotARecord
from vggtq.report.rows.collection import Unreadable
from vggtq.report.rows.columns import MIB, shown_truth
from vggtq.report.rows.groups import Group
from vggtq.report.rows.recommend import (
    LIMITS,
    WITHIN,
    Choice,
    balanced_score,
    balanced_terms,
    is_reference,
    speed_verdict,
)
from vggtq.report.rows.row import Row
from vggtq.report.rows.times import common_times, measured_times
from vggtq.report.rows.verdicts import (
    BETTER,
    FEW,
    OPEN,
    TOLD,
    WORSE,
    change_of,
    few_scenes,
    resolution,
    scores_of,
    verdict_of,
)
from vggtq.report.words.texts import Translate

DASH = "–"
_NARROW = 12  # characters of a heading in the terminal
_NAMED = 3  # more names than this are counted, not listed


def mib(value: float | None) -> str:
    return DASH if value is None else f"{value / MIB:,.1f}"


def title_of(row: Row) -> str:
    """The name of a row in tables; with ‡ where its recipe was calibrated on images of another kind."""
    return f"{row['title']}{' ‡' if row['calibrated_elsewhere'] else ''}"


def fixed(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def short(value: float | None) -> str:
    """Three significant digits, as 0.0123 or 1.23e-06; whole numbers in full."""
    return DASH if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def speedup(row: Row, reference: str = "fp32") -> str:
    """`1.32× (1.28–1.36)`, with † if simulated."""
    value = row[f"{reference}.speedup"]
    if value is None:
        return DASH
    low, high = row[f"{reference}.speedup_q25"], row[f"{reference}.speedup_q75"]
    spread = "" if low is None or high is None else f" ({low:.2f}{DASH}{high:.2f})"
    return f"{value:.2f}×{spread}{'' if row['simulated'] is False else ' †'}"


def beside(
    value: float | None,
    reference: float | None,
    change: Interval | None = None,
    verdict: str | None = None,
    decimals: int | None = 3,
) -> str:
    """`0.891 (0.895) -0.004 [-0.009, +0.001]`: the quantized model's value, the FP32 model's, the change with its interval.

    With * where the verdict (`vggtq.report.rows.verdicts`) calls the change better or worse.
    """
    if value is None and reference is None:
        return DASH
    text = f"{_digits(value, decimals)} ({_digits(reference, decimals)})"
    if change is None or change.ends is None:
        return text
    words = _signed_alike((change.mean, *change.ends), decimals)
    return f"{text} {words[0]} [{words[1]}, {words[2]}]{_mark(verdict)}"


def _signed_alike(values: Sequence[float], decimals: int | None) -> list[str]:
    if decimals is not None and max(map(abs, values)) < 10.0 ** (1 - decimals):
        decimals += 1  # a change of 0.0004 is not 0.000
    return [signed(value, decimals) for value in values]


def _mark(verdict: str | None) -> str:
    return " *" if verdict in TOLD else ""


def signed(value: float, digits: int | None) -> str:
    sign = "\u2212" if value < 0 else "+"
    return f"{sign}{_digits(abs(value), digits)}" if value else "0"


def _digits(value: float | None, decimals: int | None) -> str:
    return short(value) if decimals is None else fixed(value, decimals)


def interval(*values: float) -> list[str]:
    """The ends of an interval, and the value within, with enough digits to show on which side of 0 they are."""
    least = min((abs(value) for value in values if value), default=1.0)
    digits = min(6, max(3, math.ceil(-math.log10(least))))
    return [signed(value, digits) for value in values]


def column_heading(metric: Metric, column: str, t: Translate) -> str:
    """The heading of a metric's column: `depth PSNR (dB)`, `AUC@30 (FP32)`."""
    label = t(f"metric.{metric.name}") + (f" ({metric.unit})" if metric.unit else "")
    if metric.scope in FIDELITY:
        return f"{column.partition('.')[0]} {label}"
    return label[:1].upper() + label[1:] + (" (FP32)" if metric.scope in TRUTH else "")


def metric_cell(metric: Metric, column: str, row: Row, t: Translate) -> str:
    """A row's value of a metric; of one against ground truth beside that of FP32, with the change."""
    if metric.scope == "latency":
        return speedup(row, column.partition(".")[0])
    if metric.scope in TRUTH:
        return beside(
            *scores_of(row, metric), change_of(row, metric), verdict_of(row, metric), metric.decimals
        )
    value = row.get(column)
    if metric.best == math.inf and row[f"{column.partition('.')[0]}.identical"]:
        return t("identical")  # equal outputs have no finite one
    return mib(value) if metric.unit == "MiB" else _digits(value, metric.decimals)


def narrow_heading(metric: Metric, column: str, t: Translate) -> str:
    """`column_heading` in lines that are not much wider than numbers; the FP32 model's score has no place there."""
    whole = column_heading(metric, column, t).removesuffix(" (FP32)")
    return textwrap.fill(whole, _NARROW, break_long_words=False, break_on_hyphens=False)


def narrow_cell(metric: Metric, column: str, row: Row, t: Translate) -> str:
    """`metric_cell` for a terminal: of a score against ground truth the value, and the change in the line below."""
    if metric.scope not in TRUTH:
        return metric_cell(metric, column, row, t)
    words, change = _digits(row.get(column), metric.decimals), change_of(row, metric)
    if change is None or change.ends is None:
        return words
    shown_change = _signed_alike((change.mean, *change.ends), metric.decimals)[0]
    return f"{words}\n{shown_change}{_mark(verdict_of(row, metric))}"


def grade(row: Row, t: Translate) -> str:
    if row["non_finite"]:
        return t("non_finite")
    return t(row["grade"]) if row["grade"] else DASH


def weights_in_words(name: str | None, t: Translate) -> str:
    return t("weights.random" if name == "random" else "weights.named", weights=name or "?")


def describe_model(row: Row, t: Translate) -> str:
    """One line: weights, data set and device, whatever the scenes."""
    device = f"{row['device'] or '?'} ({row['hardware'] or '?'})"
    names = {name: row[name] or "?" for name in ("model", "dataset")}
    return t("model_line", weights=weights_in_words(row["weights"], t), device=device, **names)


def group_name(group: Group, t: Translate) -> str:
    return t("group", number=group.number) if group.number else t("homeless")


def describe_group(group: Group, t: Translate) -> str:
    """One line: which weights, images and device the rows of the group share; empty for runs that belong to no group."""
    if not group.number:
        return ""
    names = ("model", "dataset", "scenes", "frames", "scenes_hash")
    known = {name: group.first(name) or "?" for name in names}
    known["weights"] = weights_in_words(group.first("weights"), t)
    known["fingerprint"] = str(group.first("fingerprint") or "?")[:12]
    hardware = group.first("hardware")
    device = f"{group.first('device') or '?'}{f' ({hardware})' if hardware else ''}"
    return t("group_line", device=device, **known)


def cut_note(group: Group, most: int, t: Translate) -> list[str]:
    """A note on the number of successful rows shown, where that is not all of them."""
    return [t("cut", n=most, all=len(group.ok))] if len(group.ok) > most else []


def rest_note(key: str, items: Sequence[object], most: int, t: Translate) -> list[str]:
    """A note on the number of failed runs or unreadable files that are not listed."""
    return [t(key, n=len(items) - most)] if len(items) > most else []


def listed(items: Sequence[str], most: int, t: Translate) -> str:
    """`a, b, c`; of many the first, with an ellipsis."""
    return t("comma").join(items[:most]) + (" …" if len(items) > most else "")


def group_notes(group: Group, t: Translate) -> list[str]:
    notes = [t("random_note")] if group.first("weights") == "random" else []
    threads = sorted({int(row["threads"]) for row in group.ok if row["threads"] is not None})
    if len(threads) > 1:
        notes.append(t("threads_note", threads=", ".join(map(str, threads))))
    if any(row["calibrated_elsewhere"] for row in group.ok):
        notes.append(t("calibration_note"))
    common, measured = common_times(group.ok), measured_times(group.ok)
    ends = {"low": short(min(measured, default=None)), "high": short(max(measured, default=None))}
    if len(common) == 1 and ends["low"] != ends["high"]:
        notes.append(t("common_note", ms=short(common[0]), **ends))
    return notes + scene_notes(group, t)


def scene_notes(group: Group, t: Translate) -> list[str]:
    """Notes on the scenes of a group: the smallest difference they can show in each headline metric, or that
    they are too few.
    """
    if not group.number:
        return []
    known = shown_truth("paper", group.ok)
    rows = [row for row in group.ok if not is_reference(row)]
    least = {metric.name: resolution(change_of(row, metric) for row in rows) for metric in known}
    items = [f"{t(f'metric.{name}')} ±{short(value)}" for name, value in least.items() if value is not None]
    notes = [t("few")] if few_scenes(rows, known) else []
    if items:
        notes.append(t("resolution", scenes=group.first("scenes") or 0, items=t("comma").join(items)))
    return notes


def reason(row: Row) -> str:
    """Why the run failed, on one line of limited length."""
    return cut(row["error"] or "?", 160)


def cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"


def explain(choice: Choice, t: Translate) -> str:
    """The reasons for this row: the rule it won by, its numbers, the rows left out, and the caveat of random
    weights.
    """
    named = choice.basis in ("first", "second")
    key = f"why.{choice.need}.{choice.basis}" if named else f"why.{choice.basis}"
    parts = [t(key, n=choice.candidates, **LIMITS) if named else t(key, **LIMITS)]
    if choice.row is not None:
        parts += _evidence(choice, choice.row, t)
    if choice.excluded:
        reasons = (
            t("excluded.item", rule=t(rule, **LIMITS), names=_names(out, t))
            for rule, out in choice.excluded.items()
        )
        parts.append(t("excluded", reasons=t("semicolon").join(reasons)))
    return t("space").join(parts)


def answer(group: Group, t: Translate) -> str:
    """The scheme to ship, in one sentence with its numbers; or that nothing is recommended, and why."""
    choice = next(choice for choice in group.choices if choice.need == "production")
    row = choice.row
    if row is None or choice.basis == "reference":
        return t(f"answer.{choice.basis}", **LIMITS)
    about = {"size": mib(row["stored_bytes"]), "times": fixed(row["compression_vs_fp32"])}
    loss = t(f"answer.loss.{'within' if row['loss'] == WITHIN else 'grade'}", grade=grade(row, t), **LIMITS)
    speed = t(f"speed.{speed_verdict(row)}", speedup=speedup(row))
    return t(f"answer.{choice.basis}", name=row["title"], loss=loss, speed=speed, **about)


def _evidence(choice: Choice, row: Row, t: Translate) -> list[str]:
    parts = []
    if choice.need == "balanced" and choice.basis != "reference":
        parts.append(t("score", score=balanced_score(row), **balanced_terms(row)))
    numbers = {
        "size": mib(row["stored_bytes"]),
        "compression": fixed(row["compression_vs_fp32"]),
        "error": short(row["mean_relative_error"]),
        "grade": grade(row, t),
        "speed": t(f"speed.{speed_verdict(row)}", speedup=speedup(row)),
    }
    parts.append(t("evidence", **numbers))
    parts += _against_truth(row, t)
    if row["weights"] == "random":
        parts.append(t("random_short"))
    return parts


def _against_truth(row: Row, t: Translate) -> list[str]:
    """The headline scores beside those of FP32, and which of the changes are more than noise."""
    values: list[str] = []
    by_verdict: dict[str | None, list[str]] = {}
    for metric in shown_truth("paper", [row]):
        name, change = t(f"metric.{metric.name}"), change_of(row, metric)
        values.append(f"{name} {beside(*scores_of(row, metric), decimals=metric.decimals)}")
        if change and change.ends:
            name += f" [{', '.join(interval(*change.ends))}]"
        by_verdict.setdefault(verdict_of(row, metric), []).append(name)
    told = [verdict for verdict in (WORSE, BETTER, OPEN) if verdict in by_verdict]
    return [
        *([t("evidence.truth", items=t("comma").join(values))] if values else []),
        *(t(f"evidence.{verdict}", items=t("comma").join(by_verdict[verdict])) for verdict in told),
        *([t("evidence.few")] if FEW in by_verdict else []),
    ]


def _names(titles: Sequence[str], t: Translate) -> str:
    return t("comma").join(titles) if len(titles) <= _NAMED else str(len(titles))


def choice_name(choice: Choice, t: Translate) -> str:
    return t("nobody") if choice.row is None else str(choice.row["title"])


def why_unreadable(item: Unreadable, t: Translate) -> str:
    """The reason in the language of `t`, where it is not the system's own message."""
    return t(item.error.key, **item.error.values) if isinstance(item.error, NotARecord) else item.reason
