"""Which run a report recommends for each need, and that nothing undefined, simulated or incomparable wins."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.report_records import change, choices, fp32, many, record, row_of, write
from vggtq.metrics.interval import Interval
from vggtq.report import build_report
from vggtq.report.__main__ import main
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import LEAST_AUC, TOLERANCE, balanced_score, pareto_front, speed_verdict
from vggtq.report.rows.verdicts import DECIDING, loss_of, losses
from vggtq.report.words.texts import translator
from vggtq.report.words.wording import answer, explain

ROOT = Path(__file__).parents[2]


def winners(*records: dict) -> dict[str, str | None]:
    return {need: choice.row and choice.row["label"] for need, choice in choices(*records).items()}


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.0", True, 10**400])
def test_an_undefined_error_never_wins(value: object) -> None:
    broken = record("broken", 2, 1e-6, fidelity__depth__relative_error=value)
    assert winners(broken, record("sound"))["accuracy"] == "sound"
    assert winners(broken, record("sound"))["balanced"] == "sound"


def test_a_model_that_puts_out_nan_wins_nothing() -> None:
    broken = record("broken", 2, 1e-6, 9.0, fidelity__world_points__non_finite=1)
    assert set(winners(broken, record("sound")).values()) == {"sound"}


def test_failed_runs_never_win() -> None:
    crashed = record("crashed", 2, 0.0, 9.0) | {"status": "failed"}
    assert set(winners(crashed, record("sound")).values()) == {"sound"}


@pytest.mark.parametrize("changes", [{"simulated": True}, {"backends": {"reference": 1}}, {"latency": None}])
def test_simulated_or_missing_speed_never_wins_and_earns_no_credit(changes: dict) -> None:
    fast = change(record("unreal", speedup=9.0), **changes)
    assert winners(fast, record("real", speedup=1.2))["fastest"] == "real"
    assert choices(fast)["fastest"].row is None
    slow = change(record("unreal", speedup=0.5), **changes)
    assert balanced_score(row_of(fast)) == balanced_score(row_of(slow))


@pytest.mark.parametrize(
    ("speedup", "spread", "verdict"),
    [(1.3, 0.1, "faster"), (1.3, 0.4, "same"), (0.7, 0.1, "slower"), (0.9, 0.2, "same")],
)
def test_faster_is_only_what_lies_above_one_with_its_quartiles(
    speedup: float, spread: float, verdict: str
) -> None:
    made = record(speedup=speedup, spread=spread)
    assert speed_verdict(row_of(made)) == verdict
    assert (choices(made)["fastest"].row is not None) == (verdict == "faster")


def test_without_a_winner_the_rule_that_left_everyone_out_is_named() -> None:
    choice = choices(fp32(), record("INT8", speedup=1.01))["fastest"]
    assert choice.excluded == {"rule.compressed": ["FP32"], "rule.faster": ["INT8"]}
    assert "quartile interval not above 1.0 (INT8)" in explain(choice, translator("en"))


def test_production_takes_the_smallest_file_that_is_excellent_then_good() -> None:
    excellent, good, fair = record("excellent", 8, 0.004), record("good", 4, 0.02), record("fair", 3, 0.06)
    assert winners(excellent, good, fair)["production"] == "excellent"
    relaxed = choices(good, fair)["production"]
    assert relaxed.basis == "second" and relaxed.row is not None and relaxed.row["label"] == "good"
    assert "No row is shown to lose less than 0.01" in explain(relaxed, translator("en"))


def scored(label: str, bits: float, error: float, lost: float, half: float, **changes: Any) -> dict:
    """A record whose headline scores all lose as much, with an interval of that half width over 64 scenes."""
    made = record(label, bits, error, **changes)
    critical = scipy.stats.t.ppf(0.975, 63)

    def changed(sign: int) -> dict:
        ends = {"low": -sign * lost - half, "high": -sign * lost + half}
        p = 2 * scipy.stats.t.sf(abs(lost) / half * critical, 63)
        return {"mean": -sign * lost, "scenes": 64, "p": p} | ends

    made["geometry"]["change"] = {
        "pose": {name: changed(1) for name in ("auc_3", "auc_5", "auc_30")},
        "depth": {"inlier_1_03": changed(1), "abs_rel": changed(-1)},
    }
    return made


def test_production_loses_no_more_than_its_tolerance_where_ground_truth_can_tell() -> None:
    """Graded excellent and measurably worse does not count as good; shown to lose little does, whatever the grade."""
    lossy = scored("lossy", 3, 0.004, 0.02, 0.003)
    harmless = scored("harmless", 4, 0.03, 0.001, 0.001)
    large = scored("large", 8, 0.001, 0.0, 0.001)
    assert winners(fp32(), lossy, harmless, large)["production"] == "harmless"
    excluded = choices(fp32(), lossy, harmless)["production"].excluded
    assert excluded["rule.loss"] == ["lossy"]
    unclear = scored("unclear", 2, 0.03, 0.0, 0.02)
    assert winners(fp32(), unclear, large)["production"] == "large"
    assert winners(fp32(), scored("unclear", 2, 0.003, 0.0, 0.02), large)["production"] == "unclear"
    assert (
        winners(fp32(), scored("quick", 4, 0.03, 0.001, 0.001, simulated=True), large)["production"]
        == "large"
    )


def test_each_group_opens_with_one_sentence_that_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [fp32(), record("INT8", 8, 0.004), record("INT4", 4, 0.02)]
    assert main([str(write(tmp_path / "runs", rows)), f"out={tmp_path / 'out'}"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "For production: INT8, 96.3 MiB (3.96× smaller than FP32), its worst output graded excellent"
    )
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert markdown.index("**For production: INT8") < markdown.index("| FP32 |")
    text = " ".join((tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8").split())
    assert "For production: INT8, 96.3 MiB" in text
    for records, words in (
        ([fp32(), record("INT8", 8, 0.02)], "if a visible loss is acceptable: INT8"),
        ([fp32(), record("INT2", 2, 0.9)], "stay with FP32"),
        ([record("INT2", 2, 0.9)], "no run qualifies"),
        ([scored("INT4", 4, 0.03, 0.001, 0.001)], "shown to lose less than 0.01 in every headline score"),
    ):
        (group,) = group_rows([row_of(made) for made in records])
        assert words in answer(group, translator("en"))
        assert answer(group, translator("zh"))


def test_depth_alone_does_not_show_that_the_cameras_are_sound() -> None:
    harmless = scored("harmless", 4, 0.03, 0.001, 0.001)
    del harmless["geometry"]["change"]["pose"]
    assert winners(fp32(), harmless, record("large", 8, 0.004))["production"] == "large"


@pytest.mark.parametrize("guide", ["docs/guide/choosing.md", "docs/zh/choosing.md"])
def test_the_guide_states_the_rule_for_production_and_names_what_it_picks(guide: str) -> None:
    """The picks are computed again from the table of docs/accuracy.md, by the rule that reports apply."""
    words = (ROOT / guide).read_text(encoding="utf-8")
    section = words.partition('<a id="production"></a>')[2].split("\n## ")[1]
    assert f"{TOLERANCE}" in section and f"{LEAST_AUC}" in section
    table = (
        (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").partition("## Significant differences")[0]
    )
    rows = [
        line.strip("| ").split(" | ") for line in table.splitlines() if "±" in line and line.startswith("|")
    ]
    found: list[list[str | None]] = []
    for column, metric in enumerate(DECIDING):
        numbers = [[float(word.replace("−", "-")) for word in row[4 + column].split(" ± ")] for row in rows]
        changes = [Interval(mean, mean - half, mean + half, 256) for mean, half in numbers]
        found.append(losses(changes, metric.direction))
    assert len(rows) == 14 and [metric.key for metric in DECIDING][-1] == "abs_rel"
    sound = [row for row, own in zip(rows, zip(*found, strict=True), strict=True) if loss_of(own) == "within"]
    smallest = min(sound, key=lambda row: (float(row[1]), float(row[2])))
    scheme = re.findall(r"\(`(\w+)`\)", smallest[0])[0]
    assert f"`{scheme}`" in section


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.usefixtures("undrawn")
def test_nothing_is_recommended_for_production_where_fp32_itself_fails(tmp_path: Path, lang: str) -> None:
    failing = {"geometry__reference__pose__auc_30": 0.02}
    rows = [fp32(**failing), record("INT8", 8, 0.004, **failing)]
    found = choices(*rows)
    assert (found["production"].basis, found["production"].row) == ("withheld", None)
    assert found["smallest"].row is not None
    assert "0.05" in explain(found["production"], translator(lang))
    report = build_report([write(tmp_path / "runs", rows)], tmp_path / "out", lang, "paper")
    assert report.groups[0].ok
    text = (tmp_path / "out" / "paper.md").read_text(encoding="utf-8")
    words = {"en": "fails on these data", "zh": "在这些数据上失败"}
    assert words[lang] in text and "0.05" in text
    assert "FP32 remains the choice" not in text
    assert (
        winners(*[change(row, geometry__reference__pose__auc_30=0.3) for row in rows])["production"] == "INT8"
    )


def test_fp32_stands_in_only_where_no_compressed_row_qualifies() -> None:
    assert "FP32" not in winners(fp32(), record()).values()
    assert winners(fp32(), record(bits=2, error=0.9))["production"] == "FP32"
    alone = choices(fp32())
    assert [need for need, choice in alone.items() if choice.row] == ["production", "smallest", "balanced"]
    assert alone["smallest"].basis == "reference"
    assert "uncompressed FP32 model" in explain(alone["smallest"], translator("en"))


def test_random_weights_carry_their_caveat() -> None:
    choice = choices(record(model__weights="random"))["accuracy"]
    assert "say nothing about reconstruction quality" in explain(choice, translator("en"))


def test_recommendations_do_not_depend_on_the_order_of_the_records() -> None:
    records = many(12)
    assert winners(*records) == winners(*records[::-1])


coordinates = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, math.nan])


@settings(max_examples=200)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=8))
def test_pareto_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    valid = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in valid if not any(beats(points[j], points[i]) for j in valid)}
    front = pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
