"""The findings in the numbers of a group, in sentences: size, accuracy, speed, the choice. A difference within
noise is called that.

Noise: a change against ground truth that `vggtq.report.rows.verdicts` calls neither better nor worse; a
speed-up whose quartiles contain 1.0; two speed-ups whose quartiles overlap. Fewer than three scenes support no
statement. Simulated times do not count as times.
"""

from collections.abc import Sequence

from vggtq.metrics.metric import Metric
from vggtq.report.documents.tables import escape
from vggtq.report.rows.columns import shown_truth
from vggtq.report.rows.groups import Group
from vggtq.report.rows.recommend import LIMITS, choose, rankings, speed_verdict
from vggtq.report.rows.row import Row
from vggtq.report.rows.verdicts import BETTER, OPEN, TOLD, WORSE, change_of, verdict_of
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import fixed, grade, interval, listed, mib, short, speedup

_NAMED = 6  # schemes in one sentence


def analysis(group: Group, t: Translate) -> list[str]:
    """One paragraph for each question."""
    paragraphs = (("smallest", _size), ("accurate", _accuracy), ("speed", _speed), ("ship", _choice))
    return [f"**{t(f'paper.{key}')}** {_join(write(group, t), t)}" for key, write in paragraphs]


def conclusion(group: Group, t: Translate) -> str:
    choice, model = choose("production", group.rows), escape(group.first("model") or "?")
    row = choice.row
    limits = t(
        "paper.limits", scenes=group.ok[0]["scenes"] or 0, dataset=escape(group.first("dataset") or "?")
    )
    if row is None or not row["quantized_layers"]:
        ending = "withheld" if choice.basis == "withheld" else "reference"
        return _join([t(f"paper.end.{ending}", model=model), limits], t)
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
        return listed(items, _NAMED, t)
    joined = t("and").join([t("comma").join(items[:-1]), items[-1]] if len(items) > 1 else items)
    return joined.replace("） ", "）")  # a full-width bracket has its own space


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
    """Sentences on the changes against ground truth: those within noise, and those beyond it."""
    metrics = shown_truth("table", rows)
    known = [row for row in rows if any(change_of(row, metric) for metric in metrics)]
    if not known:
        return [t("paper.truth.none")]
    found = {id(row): {verdict_of(row, metric) for metric in metrics} for row in known}
    if not any(verdict in own for own in found.values() for verdict in (*TOLD, OPEN)):
        return [t("paper.truth.few", scenes=known[0]["scenes"] or 0)]
    noise = [row for row in known if found[id(row)].isdisjoint(TOLD)]
    about = {"metrics": _listed([_metric(metric, t) for metric in metrics], t), "scenes": known[0]["scenes"]}
    sentences = [t("paper.truth.noise", names=_names(noise, t), **about)] if noise else []
    for verdict in (WORSE, BETTER):
        for row in [row for row in known if verdict in found[id(row)]][:_NAMED]:
            items = [_told(row, metric, t) for metric in metrics if verdict_of(row, metric) == verdict]
            sentences.append(t(f"paper.truth.{verdict}", name=_name(row), metrics=_listed(items, t)))
    if len(noise) < len(known):
        sentences.append(t("paper.truth.holm"))
    return sentences


def _told(row: Row, metric: Metric, t: Translate) -> str:
    """A change that is more than noise, with its interval."""
    change = change_of(row, metric)
    assert change and change.low is not None and change.high is not None
    ends = interval(change.mean, change.low, change.high)
    numbers = dict(zip(("mean", "low", "high"), ends, strict=True))
    return t("paper.truth.metric", name=_metric(metric, t), **numbers)


def _metric(metric: Metric, t: Translate) -> str:
    return t(f"metric.{metric.name}")


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
    """The row that we would ship, and the gains and costs of the smallest and the most accurate row instead."""
    choice = choose("production", group.rows)
    row = choice.row
    if row is None or choice.basis not in ("first", "second"):
        return [t(f"paper.ship.{choice.basis}", **LIMITS)]
    error, size = row["mean_relative_error"], row["stored_bytes"]
    numbers = {"size": mib(size), "share": _share(size, row["float32_bytes"]), "error": short(error)} | LIMITS
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
