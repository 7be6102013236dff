"""Everything that `index.html` shows, as one JSON value: rows, what recommends them, layers, provenance, geometry.

Numbers are those of the rows, rounded to 7 digits. What is the same in many runs (environment, configuration) is kept once.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vggtq.report.columns import OUTPUTS, REFERENCES
from vggtq.report.groups import Group
from vggtq.report.i18n import LANGUAGES, TEXTS, translator
from vggtq.report.page_geometry import geometry_of
from vggtq.report.page_sensitivity import sensitivities_of
from vggtq.report.page_texts import PAGE_TEXTS
from vggtq.report.recommend import NEEDS, is_reference, rankings, speed_verdict
from vggtq.report.records import Record, read_record
from vggtq.report.results import Report
from vggtq.report.shortlist import front
from vggtq.report.sources import Source, commonest, layer_ratios
from vggtq.report.wording import describe_group, group_notes

HEAT_ROWS = 200  # runs whose layers are kept: with more no heat map can be read
TRUTH = ("pose.auc_30", "depth.abs_rel", "points.relative_error_median")
_COLUMNS = (
    *(
        "group",
        "title",
        "name",
        "status",
        "error",
        "model",
        "dataset",
        "scheme",
        "family",
        "format",
        "bits",
        "symmetric",
    ),
    *(
        "granularity",
        "group_size",
        "activation_bits",
        "stored_bytes",
        "resident_bytes",
        "compression_vs_fp32",
    ),
    *("bits_per_weight", "simulated", "mean_relative_error", "grade", "non_finite", "pose.rotation_deg_mean"),
    *(f"{r}.{name}" for r in REFERENCES for name in ("speedup", "speedup_q25", "speedup_q75")),
    *(
        f"{r}.{side}_ms_{s}"
        for r in REFERENCES
        for side in ("reference", "quantized")
        for s in ("median", "q25", "q75")
    ),
    *(f"{output}.{name}" for output in OUTPUTS for name in ("relative_error", "grade", "identical")),
    *(f"geometry.{side}.{name}" for side in ("quantized", "reference") for name in TRUTH),
    *(f"geometry.change.{name}.{end}" for name in TRUTH for end in ("mean", "low", "high")),
)


def page_data(report: Report, lang: str) -> dict[str, Any]:
    """Rows are known by their index in `rows.values`, groups by their number."""
    rows = [row for group in report.groups for row in group.rows]
    index = {id(row): i for i, row in enumerate(rows)}
    by_row = {id(source.row): source for source in report.sources}
    sources = [by_row[id(row)] for row in rows]
    telling = [index[id(row)] for group in report.groups for row in group.telling(HEAT_ROWS)][:HEAT_ROWS]
    columns = [*_COLUMNS, "scenes", "verdict"]
    records = dict(_records(sources, telling))
    data: dict[str, Any] = {
        "lang": lang,
        "texts": {name: _texts(i) for i, name in enumerate(LANGUAGES)},
        "overview": {
            "generated": report.generated,
            "folders": list(map(str, report.folders)),
            **report.counts(),
        },
        "outputs": OUTPUTS,
        "needs": NEEDS,
        "rows": {"columns": columns, "values": list(map(_values, sources))},
        "groups": [_group(group, index) for group in report.groups],
        "layers": _layers(records),
        "sensitivities": sensitivities_of(records.items()),
        "unreadable": [
            {"path": str(item.path), "reason": {name: item.told(translator(name)) for name in LANGUAGES}}
            for item in report.unreadable
        ],
    }
    data |= _provenance(sources)
    data["geometry"] = geometry_of(sources, [row["group"] for row in rows], len(repr(data)))
    return data


def _texts(language: int) -> dict[str, str]:
    return {key: words[language] for key, words in (TEXTS | PAGE_TEXTS).items()}


def _values(source: Source) -> list[Any]:
    row = source.row
    return [*(_short(row.get(name)) for name in _COLUMNS), source.scenes, speed_verdict(row)]


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _group(group: Group, index: dict[int, int]) -> dict[str, Any]:
    """What its rows share, in both languages, who is on the Pareto front, and who meets each need in which order."""
    described: dict[str, Any] = {}
    for lang in LANGUAGES:
        t = translator(lang)
        name = t("group", number=group.number) if group.number else t("homeless")
        line = describe_group(group, t) if group.number else ""
        described[lang] = {"name": name, "line": line, "notes": group_notes(group, t)}
    return {
        "number": group.number,
        "text": described,
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
    """Per run its command, file, configuration and environment; both as the differences from what is common."""
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
                "export": export_command(command, row["format"]),
                "started": row["started"],
                "hash": row["config_hash"],
                "seconds": row["total_s"],
                "weights": source.weights,
                "config": _differences(first["settings"], source.settings),
                "environment": _differences(first["environment"], source.environment),
                "notes": source.notes,
                "traceback": source.traceback,
            }
        )
    return {"runs": runs, "first": {"config": first["settings"], "environment": first["environment"]}}


def _differences(first: dict[str, str], own: dict[str, str]) -> dict[str, str | None]:
    """What `own` says otherwise; None for a key that it lacks."""
    changed: dict[str, str | None] = {key: value for key, value in own.items() if first.get(key) != value}
    return changed | {key: None for key in first if key not in own}


def export_command(command: str, number_format: Any) -> str | None:
    """The command that exports the model of a run; None where nothing was quantized or the run was no such command."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words[:3] != ["python", "-m", "vggtq.run"] or number_format in (None, "float32"):
        return None
    no_option = ("hydra.", "+experiment=", "experiment=", "out=", "overwrite=")
    kept = [word for word in words[3:] if not word.startswith((*no_option, "-"))]
    return shlex.join(["python", "-m", "vggtq.export", *kept, "out=model.safetensors"])
