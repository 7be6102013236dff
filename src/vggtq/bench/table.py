"""The rows as a table in the terminal and as Markdown."""

import sys
from collections.abc import Sequence
from statistics import geometric_mean

from vggtq.bench.rows import FP32, Row
from vggtq.machine.environment import Environment

SIMULATED = "†"
HEADINGS = ("case", "what", "× FP32 (quartiles)", "× BF16", "error", "memory", "backend")


def print_table(rows: Sequence[Row], env: Environment) -> None:
    """One line per candidate, a rule after each case, geometric means at the end."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title_of(env), caption=f"{CAPTION}; {others(rows)}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("case", "what", "backend") else "right")
    for index, row in enumerate(rows):
        first = index == 0 or rows[index - 1]["case"] != row["case"]
        last = index + 1 == len(rows) or rows[index + 1]["case"] != row["case"]
        cells = [row["case"] if first else "", row["name"], *cells_of(row)]
        table.add_row(*cells, end_section=last)
    for name, ratios in _mean_cells(rows).items():
        table.add_row("VGGT-1B's linears, mean" if name == FP32 else "", name, *ratios, "", "", "")
    Console(width=None if sys.stdout.isatty() else 150).print(table)


CAPTION = (
    "median ratio of times in the same round, above 1 is faster; error: norm of the difference over norm of FP32's output; "
    f"memory: of the weights, FP32's = 1; {SIMULATED} dequantizes the whole weight and multiplies in float"
)


def title_of(env: Environment) -> str:
    """Hardware and versions in one line."""
    where = f"{env.gpu or env.cpu} ({env.cpu_capability}), {env.threads} threads"
    return f"{where}, torch {env.versions['torch']}"


def others(rows: Sequence[Row]) -> str:
    """The load by other processes during the measurement, in words."""
    shares = [row["others_cpu_share"] for row in rows if row.get("others_cpu_share") is not None]
    if not shares:
        return "how busy other processes kept the machine is unknown"
    return f"other processes had at most {max(shares):.0%} of the processors meanwhile"


def cells_of(row: Row) -> list[str]:
    """Ratios, error, memory and backend of one row."""
    if "skipped" in row:
        return ["–", "–", "–", "–", row["skipped"]]
    fp32, bf16 = row["speedup"]["fp32"], row["speedup"].get("bf16")
    ratio = f"{fp32['median']:.2f} ({fp32['q25']:.2f} to {fp32['q75']:.2f})"
    ratio += f" {SIMULATED}" if row["simulated"] else ""
    resident = row["resident_bytes"]
    memory = "–" if resident is None else f"1/{row['float32_bytes'] / resident:.1f}"
    error = "0" if row["relative_error"] == 0 else f"{row['relative_error']:.2g}"
    return [ratio, f"{bf16['median']:.2f}" if bf16 else "–", error, memory, row["backend"]]


def geometric_means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Name → reference → mean ratio over VGGT-1B's linears, of those that ran on all of these."""
    large = [row for row in rows if row["section"] == "kernel" and row["tokens"] >= 930]
    cases = {row["case"] for row in large}
    means: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["name"] for row in large):
        own = [row for row in large if row["name"] == name and "skipped" not in row]
        if len(own) == len(cases):
            means[name] = {
                key: geometric_mean([row["speedup"][key]["median"] for row in own])
                for key in own[0]["speedup"]
            }
    return means


def _mean_cells(rows: Sequence[Row]) -> dict[str, list[str]]:
    return {
        name: [f"{means[key]:.2f}" if key in means else "–" for key in ("fp32", "bf16")]
        for name, means in geometric_means(rows).items()
    }


def markdown(rows: Sequence[Row]) -> str:
    """The same as a Markdown table, one per section, for documents."""
    lines: list[str] = []
    for section in dict.fromkeys(row["section"] for row in rows):
        own = [row for row in rows if row["section"] == section]
        lines += ["", _line(HEADINGS), "|---|---|---:|---:|---:|---:|---|"]
        lines += [_line([row["case"], row["name"], *cells_of(row)]) for row in own]
    if means := _mean_cells(rows):
        lines += ["", "| geometric mean over VGGT-1B's linears | × FP32 | × BF16 |", "|---|---:|---:|"]
        lines += [_line([name, *ratios]) for name, ratios in means.items()]
    return "\n".join(lines).strip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
