"""Numbers and choices in words: what the tables, the text report and the JSON all say in the same way."""

import math
from collections.abc import Sequence

from vggtq.report.columns import MIB
from vggtq.report.frame import Row
from vggtq.report.groups import Group
from vggtq.report.i18n import Translate
from vggtq.report.recommend import Choice, balanced_score, balanced_terms, speed_verdict

DASH = "–"
_NAMED = 3  # more names than this are counted, not listed


def mib(value: float | None) -> str:
    return DASH if value is None else f"{value / MIB:,.1f}"


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
    change: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """`0.891 (0.895) -0.004 [-0.009, +0.001]`: the quantized model's value, the FP32 model's, the change with its interval."""
    if value is None and reference is None:
        return DASH
    text = f"{fixed(value, 3)} ({fixed(reference, 3)})"
    if change is None or low is None or high is None:
        return text
    digits = 4 if max(map(abs, (change, low, high))) < 0.01 else 3  # a change of 0.0004 is not 0.000
    words = [signed(number, digits) for number in (change, low, high)]
    return f"{text} {words[0]} [{words[1]}, {words[2]}]"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\u2212") if value else "0"


def interval(*values: float) -> list[str]:
    """The ends of an interval, and what lies within, with as many digits as show on which side of 0 they are."""
    least = min((abs(value) for value in values if value), default=1.0)
    digits = min(6, max(3, math.ceil(-math.log10(least))))
    return [signed(value, digits) for value in values]


def psnr(row: Row, output: str, t: Translate) -> str:
    """In dB; equal outputs have no finite one."""
    return t("identical") if row[f"{output}.identical"] else fixed(row[f"{output}.psnr"], 1)


def grade(row: Row, t: Translate) -> str:
    if row["non_finite"]:
        return t("non_finite")
    return t(row["grade"]) if row["grade"] else DASH


def describe_model(row: Row, t: Translate) -> str:
    """One line: weights, data set and device, whatever the scenes."""
    kind = "weights.random" if row["weights"] == "random" else "weights.named"
    device = f"{row['device'] or '?'} ({row['hardware'] or '?'})"
    names = {name: row[name] or "?" for name in ("model", "dataset")}
    return t("model_line", weights=t(kind, weights=row["weights"] or "?"), device=device, **names)


def describe_group(group: Group, t: Translate) -> str:
    """One line: which weights, images and device the rows of the group share."""
    names = ("model", "weights", "fingerprint", "dataset", "scenes", "frames", "scenes_hash")
    known = {name: group.first(name) or "?" for name in names}
    kind = "weights.random" if known["weights"] == "random" else "weights.named"
    known["weights"] = t(kind, weights=known["weights"])
    known["fingerprint"] = str(known["fingerprint"])[:12]
    hardware = group.first("hardware")
    device = f"{group.first('device') or '?'}{f' ({hardware})' if hardware else ''}"
    return t("group_line", device=device, **known)


def group_notes(group: Group, t: Translate) -> list[str]:
    notes = [t("random_note")] if group.first("weights") == "random" else []
    threads = sorted({int(row["threads"]) for row in group.ok if row["threads"] is not None})
    if len(threads) > 1:
        notes.append(t("threads_note", threads=", ".join(map(str, threads))))
    return notes


def reason(row: Row) -> str:
    """Why the run failed, on one line of limited length."""
    return cut(" ".join((row["error"] or "?").split()), 160)


def cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"


def explain(choice: Choice, t: Translate) -> str:
    """Why this row: the rule it won by, its numbers, what was left out, and the caveat of random weights."""
    named = choice.basis in ("first", "second")
    key = f"why.{choice.need}.{choice.basis}" if named else f"why.{choice.basis}"
    parts = [t(key, n=choice.candidates) if named else t(key)]
    if choice.row is not None:
        parts += _evidence(choice, choice.row, t)
    if choice.excluded:
        reasons = (
            t("excluded.item", rule=t(rule), names=_names(out, t)) for rule, out in choice.excluded.items()
        )
        parts.append(t("excluded", reasons=t("semicolon").join(reasons)))
    return t("space").join(parts)


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
    for name, column in (("AUC@30", "pose.auc_30"), ("AbsRel", "depth.abs_rel")):
        quantized, reference = (row[f"geometry.{side}.{column}"] for side in ("quantized", "reference"))
        if quantized is not None:
            values = {"quantized": fixed(quantized, 3), "reference": fixed(reference, 3)}
            parts.append(t("evidence.truth", name=name, **values))
            low, high = (row[f"geometry.change.{column}.{end}"] for end in ("low", "high"))
            if low is not None and high is not None:
                ends = dict(zip(("low", "high"), interval(low, high), strict=True))
                parts.append(
                    t("evidence.noise" if low <= 0 <= high else "evidence.change", name=name, **ends)
                )
    if row["weights"] == "random":
        parts.append(t("random_short"))
    return parts


def _names(titles: Sequence[str], t: Translate) -> str:
    return t("comma").join(titles) if len(titles) <= _NAMED else str(len(titles))


def choice_name(choice: Choice, t: Translate) -> str:
    return t("nobody") if choice.row is None else str(choice.row["title"])
