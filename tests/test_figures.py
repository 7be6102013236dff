"""Every figure on the pages that people read first comes from a measurement, and both languages show the same ones."""

import json
import re
from collections.abc import Iterator
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from itertools import zip_longest
from pathlib import Path

import pytest

from helpers.figure_sources import ACCURACY, BENCHMARKS, CASCADE, CHOOSING, MINI, README, SOURCES, Source

ROOT = Path(__file__).parents[1]
IN_BOTH = [README, CHOOSING, ACCURACY, BENCHMARKS, MINI, "docs/memory.md", "docs/measuring.md"]

# A figure in prose has a decimal point or a unit; 224 × 224 is a size. In a table every number that stands alone counts.
IN_PROSE = re.compile(
    r"(?<![\w.@×²-])(?<!× )(?:\d*\.\d+(?!\.?\d)|\d+(?= (?:to|至) \d+ %)|\d+(?= ?(?:%|MiB|GiB|×(?! ?\d))))(?!\w)"
)
IN_TABLE = re.compile(r"(?<![\w.@×²/-])(?<!× )\d*\.?\d+(?![\w²]|\.\d| ×)")


def units(text: str) -> list[tuple[str, str]]:
    """Paragraphs, items of lists, rows of tables and lines of code, each with the heading that it stands under."""
    heading, fenced, found = "", False, []
    paragraph: list[str] = []

    def flush() -> None:
        if paragraph:
            found.append((heading, " ".join(paragraph)))
            paragraph.clear()

    for line in map(str.strip, text.splitlines()):
        if fenced or line.startswith(("```", "|", "#")) or not line:
            flush()
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("|"):
            found.append((heading, line))
        elif line.startswith("#"):
            heading = line.lstrip("# ")
        elif line:
            if re.match(r"- |\d+\. ", line):
                flush()
            paragraph.append(line)
    flush()
    return found


def figures(unit: str) -> list[str]:
    """Those of prose, and all numbers of a table's cells that have no words."""
    if not unit.startswith("|"):
        return IN_PROSE.findall(unit)
    name, *cells = unit.strip("| ").split("|")
    found = IN_PROSE.findall(name)
    for cell in cells:
        worded = re.search(r"[^\W\d]", re.sub(r"MiB|\bs\b", "", cell))
        found += (IN_PROSE if worded else IN_TABLE).findall(cell)
    return found


def rounds_to(longer: Decimal, figure: str) -> bool:
    step = Decimal(1).scaleb(-len(figure.partition(".")[2]))
    return Decimal(figure) in [
        longer.quantize(step, rounding) for rounding in (ROUND_HALF_UP, ROUND_HALF_DOWN)
    ]


def page(name: str) -> list[tuple[str, str]]:
    return units((ROOT / name).read_text("utf-8"))


def the_one(name: str, key: str) -> str:
    """The one unit of a page with these words; behind a # stands how its heading begins."""
    words, _, heading = key.partition(" # ")
    found = [unit for under, unit in page(name) if words in unit and under.startswith(heading)]
    assert len(found) == 1, f"{name} has {len(found)} places with {key!r}"
    return found[0]


def numbers(unit: str) -> list[Decimal]:
    """Those of a unit without quartiles, which no page cites."""
    without = re.sub(r"\([\d.]+ to [\d.]+\)", "", unit)
    return [Decimal(number) for number in re.findall(r"(?<![\w.])(?:\d*\.)?\d+", without)]


def known(sources: list[Source]) -> list[Decimal]:
    """The numbers at the sources; quotients also in percent."""
    found: list[Decimal] = []
    for source in sources:
        if isinstance(source, str):
            found += map(Decimal, source.partition(":")[0].split())
        elif isinstance(source[0], str):
            found += numbers(the_one(*source))
    for source in sources:
        if not isinstance(source[0], str):
            *one, a, b = (Decimal(str(number)) for number in source)
            assert a in found and b in found, f"{a} and {b} are at none of the places"
            quotient = one[0] - a / b if one else a / b
            found += [quotient, 100 * quotient]
    return found


def unknown(unit: str, sources: list[Source]) -> list[str]:
    longer = known(sources)
    return [figure for figure in figures(unit) if not any(rounds_to(number, figure) for number in longer)]


@pytest.mark.parametrize("name", SOURCES)
def test_every_figure_comes_from_a_measurement(name: str) -> None:
    """Where a figure has changed, look at its sources in helpers/figure_sources.py: which of the two is right?"""
    sources = {the_one(name, key): found for key, found in SOURCES[name].items()}
    measured = name == ACCURACY  # its tables are the measurement
    bare = [unit for _, unit in page(name) if figures(unit) and not (measured and unit.startswith("|"))]
    assert [unit for unit in bare if unit not in sources] == [], "no source is named"
    assert {unit: found for unit in sources if (found := unknown(unit, sources[unit]))} == {}


def test_a_figure_that_is_nowhere_is_found() -> None:
    place: list[Source] = [(CASCADE, "| W8A8 | 6.7 |")]
    assert unknown("W8A8 runs at 2.07 × FP32", place) == []
    assert unknown("W8A8 runs at 2.1 × FP32", place) == []
    assert unknown("W8A8 runs at 2.08 × FP32", place) == ["2.08"]
    assert unknown("| W8A8 | 2.07 | 1335 MiB |", place) == ["1335"]


def test_most_changes_of_a_last_digit_are_noticed() -> None:
    changed, noticed = 0, 0
    for name, keys in SOURCES.items():
        for key, sources in keys.items():
            longer = known(sources)
            for figure in figures(the_one(name, key)):
                for digit in set("0123456789") - {figure[-1]}:
                    changed += 1
                    noticed += not any(rounds_to(number, figure[:-1] + digit) for number in longer)
    assert changed > 2000 and noticed / changed > 0.85


OF_THE_RECORD = {
    "pose AUC@30 ↑": "auc_30",
    "pose AUC@10 ↑": "auc_10",
    "pose AUC@5 ↑": "auc_5",
    "pose AUC@3 ↑": "auc_3",
    "rotation RRA@15 ↑": "rra_15",
    "translation direction RTA@15 ↑": "rta_15",
    "depth AbsRel ↓": "abs_rel",
    "depth δ < 1.25 ↑": "delta_1_25",
    "depth inlier@1.03 ↑": "inlier_1_03",
    "median point error ↓": "point_error",
}
OTHER_SCENES = ["objects, 2 frames", "objects, 6 frames", "objects, 8 frames", "rooms, 4 frames"]
OF_OTHERS = ["auc_30", "auc_5", "abs_rel", "inlier_1_03", "point_error"]


def test_the_page_of_the_embedded_model_shows_its_record() -> None:
    record = json.loads((ROOT / "docs/vggt_mini_metrics.json").read_text("utf-8"))
    shown: list[tuple[str, float]] = []
    for row, key in OF_THE_RECORD.items():
        mean, error, constant, calibration, *_ = re.findall(r"\d\.\d{3}", the_one(MINI, f"| {row} |"))
        shown += zip((mean, error), record["test"]["model"][key], strict=True)
        shown += [(constant, record["constant"][key][0]), (calibration, record["calibration_step_8570"][key])]
    for row in OTHER_SCENES:
        pairs = re.findall(r"(\S+) ± (\S+)", the_one(MINI, f"| {row} |"))
        scenes = record["others"][row.replace(", ", "_").removesuffix(" frames")]
        for pair, key in zip(pairs, OF_OTHERS, strict=True):
            shown += zip(pair, scenes[key], strict=True)
    for row, key in (("all frames of", "normal"), ("a pair of", "pair kept"), ("each frame with", "alone")):
        shown += [(re.findall(r"\d\.\d{3}", the_one(MINI, f"| {row}"))[0], record["exchange"][key])]
    assert len(shown) == 83
    assert [pair for pair in shown if not rounds_to(Decimal(str(pair[1])), pair[0])] == []


def tables(name: str) -> Iterator[list[str]]:
    """The numbers of each row with their signs, without those that are part of a name."""
    for _, unit in page(name):
        if unit.startswith("|"):
            yield re.findall(
                r"(?<![A-Za-z0-9@_.])(?<![A-Za-z]-)(?:[−+]|(?<!\w)-)?(?:\d|\.\d)(?:[\d.,]*\d)?", unit
            )


@pytest.mark.parametrize("name", IN_BOTH)
def test_tables_have_the_same_numbers_in_both_languages(name: str) -> None:
    chinese = "README.zh-CN.md" if name == README else f"docs/zh/{Path(name).name}"
    rows = list(zip_longest(tables(name), tables(chinese)))
    assert rows and [row for row in rows if row[0] != row[1]] == []


def test_both_readmes_have_the_same_figures() -> None:
    texts = [(ROOT / name).read_text("utf-8") for name in (README, "README.zh-CN.md")]
    found = [units(text.replace("910 万", "9.1 百万")) for text in texts]
    english, chinese = (sorted(figure for _, unit in each for figure in figures(unit)) for each in found)
    assert english == chinese
