"""Tables of measurements whose numbers lie beside them as JSON are what these numbers give."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/measurements"
PAGE = FOLDER / "2026-11-28-epyc-avx2.md"
# Metrics of a table's columns, with the decimals of their changes.
COMPARED = {"pose.auc_3": 3, "pose.auc_5": 3, "pose.auc_30": 3, "depth.inlier_1_03": 3, "depth.abs_rel": 4}
ATTENTION = COMPARED | {"pose.auc_30": 4}
del ATTENTION["depth.abs_rel"]


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text("utf-8"))["rows"]
    return found


def change(entry: dict[str, Any], decimals: int) -> str:
    """With half of its interval; * where it is more than noise."""
    half, mark = (entry["high"] - entry["low"]) / 2, " *" if entry.get("significant") else ""
    sign = "−" if entry["mean"] < 0 else "+"
    return f"{sign}{abs(entry['mean']):.{decimals}f} ± {half:.{decimals}f}{mark}"


def compared(row: dict[str, Any]) -> str:
    changes = {key: (row["change"][key], decimals) for key, decimals in COMPARED.items()}
    if row["row"] == "FP32":
        cells = ["0", *(f"{entry['reference']:.3f}" for entry, _ in changes.values())]
    else:
        cells = [f"{row['relative_error']:.4f}", *(change(entry, d) for entry, d in changes.values())]
    return " | ".join([f"{row['stored_bytes'] / 2**20:.1f}", *cells])


def with_attention(row: dict[str, Any]) -> str:
    cells = [change(row["change"][key], decimals) for key, decimals in ATTENTION.items()]
    return " | ".join([row["row"], f"{100 * row['relative_error']:.3f}", *cells])


def test_the_comparison_is_what_was_measured() -> None:
    text = PAGE.read_text("utf-8")
    missing = [row["row"] for row in rows("2026-11-28-compare.json") if f"| {compared(row)} |" not in text]
    assert missing == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_has_rows_of_it(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    shown = [row["row"] for row in rows("2026-11-28-compare.json") if f"| {compared(row)} |" in text]
    assert len(shown) == 4


def test_int8_attention_is_what_was_measured() -> None:
    text = PAGE.read_text("utf-8")
    found = rows("2026-11-28-int8-attention.json")
    assert [row["row"] for row in found if f"| {with_attention(row)} |" not in text] == []
    assert all(row["config_hash"] and row["scenes"] == 256 for row in found)


WIDE = 2**20  # weights of the linear layers of VGGT-1B, at least


def linear_layers(found: list[dict[str, Any]]) -> Iterator[str]:
    """Geometric means over the layers, for 930 and 4650 tokens."""
    sizes = {row["case"]: [int(n) for n in row["case"].replace("→", "×").split("×")] for row in found}
    wide = [row for row in found if prod(sizes[row["case"]][1:]) >= WIDE]
    for name in dict.fromkeys(row["name"] for row in wide):
        cells = []
        for tokens in (930, 4650):
            own = [row for row in wide if row["name"] == name and sizes[row["case"]][0] == tokens]
            assert len(own) == 4
            cells += [prod(row[other][1] for row in own) ** 0.25 for other in ("fp32", "bf16")]
        yield " | ".join([name, *(f"{cell:.2f}" for cell in cells)])


def blocks(found: list[dict[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(row["name"] for row in found):
        own = [row for row in found if row["name"] == name]
        cells = [f"{row['ms']:.0f} | {row['fp32'][1]:.2f} | {row['bf16'][1]:.2f}" for row in own]
        yield " | ".join([name, *cells, f"{own[0]['relative_error']:.2g}"])


def models(found: list[dict[str, Any]]) -> Iterator[str]:
    for row in found:
        low, middle, high = row["fp32"]
        ratios = f"{middle:.2f} ({low:.2f} to {high:.2f}) | {row['bf16'][1]:.2f}"
        yield f"{row['name']} | {row['ms']:.0f} | {ratios} | {row['relative_error']:.2g}"


@pytest.mark.parametrize(
    ("section", "table"), [("kernel", linear_layers), ("block", blocks), ("model", models)]
)
def test_zen_4_is_what_was_measured(section: str, table: Any) -> None:
    text = (FOLDER / "2026-11-28-zen4.md").read_text("utf-8")
    found = [row for row in rows("2026-11-28-zen4.json") if row["section"] == section]
    lines = list(table([row for row in found if "skipped" not in row]))
    assert lines and [line for line in lines if f"| {line} |" not in text] == []
