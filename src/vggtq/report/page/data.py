"""Everything that `index.html` shows, as one JSON value: rows, the reasons of recommendations, layers,
provenance, geometry.

Numbers are those of the rows, rounded to 7 digits. Values that many runs share (environment, configuration) are
kept once.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vggtq.metrics.metric import FIDELITY, GRADES, REFERENCES, TRUTH, Metric
from vggtq.metrics.table import HEADLINE
from vggtq.network.outputs import OUTPUTS
from vggtq.records.reading import read_record
from vggtq.records.schema import Record
from vggtq.report.documents.networks import networks_headings, networks_intro, networks_lines
from vggtq.report.documents.results import Report
from vggtq.report.page.geometry import geometry_of
from vggtq.report.page.sensitivity import sensitivities_of
from vggtq.report.rows.columns import COLUMNS, shown
from vggtq.report.rows.groups import Group
from vggtq.report.rows.networks import Networks
from vggtq.report.rows.recommend import NEEDS, is_reference, rankings, speed_verdict
from vggtq.report.rows.shortlist import front
from vggtq.report.rows.sources import Source, commonest, differences, layer_ratios
from vggtq.report.words.texts import LANGUAGES, known_texts, translator
from vggtq.report.words.wording import answer, describe_group, group_name, group_notes, why_unreadable

HEAT_ROWS = 200  # runs whose layers are kept: with more no heat map can be read
_ABOUT = (
    "group", "title", "name", "status", "error", "model", "dataset", "scheme", "family", "format", "bits", "symmetric",
    "granularity", "group_size", "activation_bits", "resident_bytes", "bits_per_weight", "simulated", "grade", "non_finite",
    "calibrated_elsewhere", "loss",
)  # fmt: skip


def page_data(report: Report, lang: str) -> dict[str, Any]:
    """Rows are known by their index in `rows.values`, groups by their number."""
    rows = [row for group in report.groups for row in group.rows]
    index = {id(row): i for i, row in enumerate(rows)}
    by_row = {id(source.row): source for source in report.sources}
    sources = [by_row[id(row)] for row in rows]
    telling = [index[id(row)] for group in report.groups for row in group.telling(HEAT_ROWS)][:HEAT_ROWS]
    metrics = shown("page", rows)
    columns = _columns(metrics)
    records = dict(_records(sources, telling))
    data: dict[str, Any] = {
        "lang": lang,
        "texts": {name: known_texts(name) for name in LANGUAGES},
        "overview": report.overview(),
        "outputs": OUTPUTS,
        "grades": GRADES,
        "needs": NEEDS,
        "metrics": [_metric(metric, column) for metric, column in metrics],
        "rows": {
            "columns": [*columns, "scenes", "verdict"],
            "values": [_values(s, columns) for s in sources],
        },
        "groups": [_group(group, index) for group in report.groups],
        "layers": _layers(records),
        "sensitivities": sensitivities_of(records.items()),
        "networks": [_networks(table, index) for table in report.networks],
        "refused": [
            {"path": str(item.path.parent), "reason": item.row["error"] or "?"} for item in report.refused
        ],
        "unreadable": [
            {
                "path": str(item.path),
                "reason": {name: why_unreadable(item, translator(name)) for name in LANGUAGES},
            }
            for item in report.unreadable
        ],
    }
    data |= _provenance(sources)
    data["geometry"] = geometry_of(sources, [row["group"] for row in rows], len(repr(data)))
    return data


def _columns(metrics: Sequence[tuple[Metric, str]]) -> list[str]:
    """The columns of each row on the page: those that identify it, the metrics that it shows, times, and the
    headline metric.
    """
    found = dict.fromkeys([*_ABOUT, *(column for metric, column in metrics if metric.scope not in TRUTH)])
    prefixes = [f"{reference}." for reference in REFERENCES]
    found |= dict.fromkeys(name for name in COLUMNS if name.startswith(tuple(prefixes)))
    found |= dict.fromkeys(f"{o}.{name}" for o in OUTPUTS for name in (HEADLINE.key, "grade", "identical"))
    for metric in [metric for metric, _ in metrics if metric.scope in TRUTH]:
        found |= {f"geometry.{side}.{metric.name}": None for side in ("quantized", "reference")}
        found |= {f"geometry.change.{metric.name}.{end}": None for end in ("mean", "low", "high", "verdict")}
    return list(found)


def _metric(metric: Metric, column: str) -> dict[str, Any]:
    """The page's form of a column: kind is change, speedup, bytes or value; output, if it is of one output."""
    kinds = {"latency": "speedup"} | dict.fromkeys(TRUTH, "change")
    kind = kinds.get(metric.scope, "bytes" if metric.unit == "MiB" else "value")
    output = column.partition(".")[0] if metric.scope in FIDELITY else None
    about = {"column": column, "name": metric.name, "kind": kind, "output": output}
    return about | {"unit": metric.unit, "decimals": metric.decimals}


def _values(source: Source, columns: Sequence[str]) -> list[Any]:
    row = source.row
    values = (row.get(name) for name in columns)
    short = (float(f"{value:.7g}") if isinstance(value, float) else value for value in values)
    return [*short, source.scenes, speed_verdict(row)]


def _group(group: Group, index: dict[int, int]) -> dict[str, Any]:
    """The common facts of a group's rows, in both languages, the rows on the Pareto front, and the ranking for
    each need.
    """
    described: dict[str, Any] = {}
    for lang in LANGUAGES:
        t = translator(lang)
        line, notes = describe_group(group, t), group_notes(group, t)
        words = answer(group, t) if group.number and group.ok else ""
        described[lang] = {"name": group_name(group, t), "line": line, "notes": notes, "answer": words}
    shipped = next((choice.row for choice in group.choices if choice.need == "production"), None)
    return {
        "number": group.number,
        "text": described,
        "answer": None if shipped is None else index[id(shipped)],
        "front": [index[id(row)] for row in front(group.ok)],
        "telling": [index[id(row)] for row in group.telling(HEAT_ROWS)],
        "reference": [index[id(row)] for row in group.rows if is_reference(row)],
        "rankings": {
            need: {
                basis: [index[id(row)] for row in ranked]
                for basis, ranked in rankings(need, group.rows).items()
            }
            for need in NEEDS
        },
    }


def _networks(table: Networks, index: dict[int, int]) -> dict[str, Any]:
    """Words in both languages, cells, and which run each line is of."""
    texts = {}
    for lang in LANGUAGES:
        t = translator(lang)
        texts[lang] = {"intro": networks_intro(table, t), "headings": networks_headings(table, t)}
    return {
        "text": texts,
        "lines": networks_lines(table),
        "ids": [index[id(row)] for _, row, _ in table.rows],
    }


def _records(sources: Sequence[Source], telling: Sequence[int]) -> Iterator[tuple[int, Record]]:
    """The records of those runs whose layers the page shows, read again: only these few are needed whole."""
    for i in sorted(telling):
        if sources[i].has_layers:
            try:
                yield i, read_record(sources[i].path)
            except (OSError, ValueError):  # gone since it was read: the rest of its numbers still stand
                continue


def _layers(records: Mapping[int, Record]) -> dict[str, Any]:
    """The noise of every layer of the telling runs; null where a layer was kept."""
    found = {i: layer_ratios(record) for i, record in records.items()}
    # Records list layers in the network's order; who quantized most knows it best.
    most_first = sorted(found.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for own in most_first for name in own))
    return {"names": names, "rows": {i: [own.get(name) for name in names] for i, own in found.items()}}


def _provenance(sources: Sequence[Source]) -> dict[str, Any]:
    """Per run its command, file, configuration and environment; both as differences from common values."""
    first = {
        kind: commonest([getattr(source, kind) for source in sources]) for kind in ("settings", "environment")
    }
    runs = []
    for source in sources:
        row, command = source.row, source.row["command"] or ""
        runs.append(
            {
                "path": str(source.path),
                "command": command,
                "export": export_command(command) if row["quantized_layers"] else None,
                "started": row["started"],
                "hash": row["config_hash"],
                "seconds": row["total_s"],
                "weights": source.weights,
                "config": differences(first["settings"], source.settings),
                "environment": differences(first["environment"], source.environment),
                "notes": source.notes,
                "traceback": source.traceback,
            }
        )
    return {"runs": runs, "first": {"config": first["settings"], "environment": first["environment"]}}


def export_command(command: str) -> str | None:
    """The command that exports the model of a run; None where the run was no such command."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words[:3] != ["python", "-m", "vggtq.run"]:
        return None
    no_option = ("hydra.", "+experiment=", "experiment=", "out=", "overwrite=")
    folders = [word for flag, name in pairwise(words) if flag == "--config-dir" for word in (flag, name)]
    others = [word for flag, word in pairwise(words[2:]) if flag != "--config-dir"]
    kept = [word for word in others if not word.startswith((*no_option, "-"))]
    return shlex.join(["python", "-m", "vggtq.export", *folders, *kept, "out=model.safetensors"])
