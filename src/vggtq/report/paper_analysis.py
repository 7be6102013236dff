"""What the numbers of a group say, in sentences: size, accuracy, speed, the choice. A difference within noise is called that.

Noise: a change against ground truth whose 95 % interval over scenes contains 0; a speed-up whose quartiles contain 1.0; two
speed-ups whose quartiles overlap. One scene has no interval, and simulated times are no times.
"""

from collections.abc import Sequence

from vggtq.report.frame import Row
from vggtq.report.groups import Group
from vggtq.report.i18n import Translate
from vggtq.report.recommend import choose, rankings, speed_verdict
from vggtq.report.tables import escape
from vggtq.report.wording import fixed, grade, interval, mib, short, speedup

TRUTH = {
    "AUC@30": ("pose.auc_30", 1),
    "AbsRel": ("depth.abs_rel", -1),
    "point error": ("points.relative_error_median", -1),
}
_NAMED = 6  # schemes in one sentence


def analysis(group: Group, t: Translate) -> list[str]:
    """One paragraph for each question."""
    paragraphs = (("smallest", _size), ("accurate", _accuracy), ("speed", _speed), ("ship", _choice))
    return [f"**{t(f'paper.{key}')}** {_join(write(group, t), t)}" for key, write in paragraphs]


def conclusion(group: Group, t: Translate) -> str:
    row, model = choose("production", group.rows).row, escape(group.first("model") or "?")
    limits = t(
        "paper.limits", scenes=group.ok[0]["scenes"] or 0, dataset=escape(group.first("dataset") or "?")
    )
    if row is None or not row["quantized_layers"]:
        return _join([t("paper.end.reference", model=model), limits], t)
    sizes = {"before": mib(row["float32_bytes"]), "after": mib(row["stored_bytes"])}
    quality = {"error": short(row["mean_relative_error"]), "grade": grade(row, t)}
    sentences = [t("paper.end", name=_name(row), model=model, **sizes, **quality)]
    sentences += _truth([row], t)
    sentences.append(t(f"paper.end.speed.{speed_verdict(row)}", speedup=speedup(row)))
    sentences += [t("paper.random")] if row["weights"] == "random" else []
    return _join([*sentences, limits], t)


def _join(sentences: Sequence[str], t: Translate) -> str:
    return t("space").join(sentences)


def _name(row: Row) -> str:
    return escape(row["title"])


def _names(rows: Sequence[Row], t: Translate) -> str:
    return _listed([_name(row) for row in rows], t)


def _listed(items: Sequence[str], t: Translate) -> str:
    """`a, b and c`; of many the first, with an ellipsis."""
    if len(items) > _NAMED:
        return t("comma").join(items[:_NAMED]) + " …"
    return t("and").join([t("comma").join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _share(part: float | None, whole: float | None) -> str:
    return fixed(100 * part / whole, 0) if part and whole else "?"


def _size(group: Group, t: Translate) -> list[str]:
    ranked = rankings("smallest", group.rows)["first"]
    if not ranked:
        return [t("paper.ship.none")]
    first, *others = ranked
    shares = {"share": _share(first["stored_bytes"], first["float32_bytes"])}
    shares |= {"half": _share(first["stored_bytes"], first["float16_bytes"])}
    quality = {"error": short(first["mean_relative_error"]), "grade": grade(first, t)}
    sentences = [
        t("paper.smallest.text", name=_name(first), size=mib(first["stored_bytes"]), **shares, **quality)
    ]
    if others:
        more = fixed(100 * (others[0]["stored_bytes"] / first["stored_bytes"] - 1), 1)
        sentences.append(
            t("paper.smallest.second", name=_name(others[0]), size=mib(others[0]["stored_bytes"]), more=more)
        )
    return sentences


def _accuracy(group: Group, t: Translate) -> list[str]:
    ranked = rankings("accuracy", group.rows)["first"]
    if not ranked:
        return [t("paper.ship.none")]
    first, error = ranked[0], ranked[0]["mean_relative_error"]
    sentences = [t("paper.accurate.text", name=_name(first), error=short(error))]
    if not error:
        sentences.append(t("paper.accurate.identical"))
    elif len(ranked) > 1:
        second = ranked[1]["mean_relative_error"]
        words = {"error": short(second), "times": short(second / error)}
        sentences.append(t("paper.accurate.second", name=_name(ranked[1]), **words))
    return sentences + _truth(sorted(ranked, key=group.rows.index), t)


def _truth(rows: Sequence[Row], t: Translate) -> list[str]:
    """What of the changes against ground truth is more than noise."""
    known = [row for row in rows if any(_change(row, column)[0] is not None for column, _ in TRUTH.values())]
    if not known:
        return [t("paper.truth.none")]
    if all(_change(row, column)[1] is None for row in known for column, _ in TRUTH.values()):
        return [t("paper.truth.single")]
    worse = {id(row): _beyond(row, -1, t) for row in known}
    better = {id(row): _beyond(row, 1, t) for row in known}
    noise = [row for row in known if not worse[id(row)] and not better[id(row)]]
    sentences = [t("paper.truth.noise", names=_names(noise, t), scenes=known[0]["scenes"])] if noise else []
    for key, found in (("worse", worse), ("better", better)):
        for row in [row for row in known if found[id(row)]][:_NAMED]:
            sentences.append(t(f"paper.truth.{key}", name=_name(row), metrics=_listed(found[id(row)], t)))
    intervals = sum(_change(row, column)[1] is not None for row in known for column, _ in TRUTH.values())
    if len(noise) < len(known) and intervals > 1:
        sentences.append(t("paper.truth.chance", n=intervals))
    return sentences


def _change(row: Row, column: str) -> tuple[float | None, float | None, float | None]:
    mean, low, high = (row.get(f"geometry.change.{column}.{end}") for end in ("mean", "low", "high"))
    return mean, low, high


def _beyond(row: Row, direction: int, t: Translate) -> list[str]:
    """The metrics whose interval lies wholly on one side: 1 for better than FP32, -1 for worse."""
    found = []
    for name, (column, better) in TRUTH.items():
        mean, low, high = _change(row, column)
        if mean is None or low is None or high is None or low <= 0 <= high:
            continue
        if (mean > 0) == (better == direction):
            numbers = dict(zip(("mean", "low", "high"), interval(mean, low, high), strict=True))
            found.append(t("paper.truth.metric", name=_metric(name, t), **numbers))
    return found


def _metric(name: str, t: Translate) -> str:
    return t("point_error_name") if name == "point error" else name


def _speed(group: Group, t: Translate) -> list[str]:
    compressed = [row for row in group.ok if row["quantized_layers"]]
    by_verdict = {
        verdict: [row for row in compressed if speed_verdict(row) == verdict]
        for verdict in ("faster", "slower", "same", "simulated", "untimed")
    }
    faster = sorted(by_verdict["faster"], key=lambda row: -row["fp32.speedup"])
    slower = sorted(by_verdict["slower"], key=lambda row: row["fp32.speedup"])
    timed = faster or slower or by_verdict["same"]
    sentences = [t("paper.speed.faster", items=_speeds(faster, t))] if faster else []
    sentences += [t("paper.speed.no_faster")] if timed and not faster else []
    if len(faster) > 1 and faster[1]["fp32.speedup_q75"] >= faster[0]["fp32.speedup_q25"]:
        sentences.append(t("paper.speed.overlap", first=_name(faster[0]), second=_name(faster[1])))
    sentences += [t("paper.speed.slower", items=_speeds(slower, t))] if slower else []
    sentences += [t("paper.speed.same", items=_speeds(by_verdict["same"], t))] if by_verdict["same"] else []
    for verdict in ("simulated", "untimed"):
        if by_verdict[verdict]:
            sentences.append(t(f"paper.speed.{verdict}", names=_names(by_verdict[verdict], t)))
    return sentences or [t("paper.speed.no_faster")]


def _speeds(rows: Sequence[Row], t: Translate) -> str:
    return _listed([f"{_name(row)} {speedup(row)}" for row in rows], t)


def _choice(group: Group, t: Translate) -> list[str]:
    """What we would ship, and what the smallest and the most accurate would give and cost instead."""
    choice = choose("production", group.rows)
    row = choice.row
    if row is None or choice.basis not in ("first", "second"):
        return [t(f"paper.ship.{choice.basis}")]
    error, size = row["mean_relative_error"], row["stored_bytes"]
    numbers = {"size": mib(size), "share": _share(size, row["float32_bytes"]), "error": short(error)}
    if choice.candidates > 1:
        sentences = [t(f"paper.ship.{choice.basis}", name=_name(row), n=choice.candidates, **numbers)]
    else:
        sentences = [t(f"paper.ship.{choice.basis}.one", name=_name(row), **numbers)]
    smallest, accurate = (choose(need, group.rows).row for need in ("smallest", "accuracy"))
    if (
        smallest
        and smallest is not row
        and smallest["stored_bytes"] < size
        and smallest["mean_relative_error"]
        and error
    ):
        saved, times = mib(size - smallest["stored_bytes"]), short(smallest["mean_relative_error"] / error)
        sentences.append(t("paper.ship.smaller", name=_name(smallest), size=saved, times=times))
    if accurate and accurate is not row and accurate["stored_bytes"]:
        more, words = mib(accurate["stored_bytes"] - size), short(accurate["mean_relative_error"])
        sentences.append(t("paper.ship.accurate", name=_name(accurate), error=words, size=more))
    return sentences
