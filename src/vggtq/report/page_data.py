"""Everything that `index.html` shows, as one JSON value: rows, what recommends them, layers, provenance, geometry.

Numbers are those of the rows, rounded to 7 digits. What is the same in many runs (environment, configuration) is kept once.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggtq.report.columns import OUTPUTS, REFERENCES
from vggtq.report.frame import Row, number
from vggtq.report.groups import Group
from vggtq.report.i18n import LANGUAGES, TEXTS, translator
from vggtq.report.page_geometry import geometry_of
from vggtq.report.page_sensitivity import sensitivities_of
from vggtq.report.page_texts import PAGE_TEXTS
from vggtq.report.recommend import NEEDS, is_reference, pareto_front, rankings, speed_verdict
from vggtq.report.records import Record, dig
from vggtq.report.results import Report
from vggtq.report.titles import settings_of
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
    by_row = {id(row): (path, record) for path, record, row in report.sources}
    sources = [by_row[id(row)] for row in rows]
    records = [record for _, record in sources]
    columns = [*_COLUMNS, "scenes", "verdict"]
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
        "rows": {"columns": columns, "values": [_values(*pair) for pair in zip(rows, records, strict=True)]},
        "groups": [_group(group, index) for group in report.groups],
        "layers": _layers(records),
        "sensitivities": sensitivities_of(records),
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


def _values(row: Row, record: Record) -> list[Any]:
    scenes = dig(record, "dataset", "scenes")
    names = [str(dig(scene, "name")) for scene in scenes] if isinstance(scenes, list) else []
    return [*(_short(row.get(name)) for name in _COLUMNS), names, speed_verdict(row)]


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
    sound = [row for row in group.ok if row["compression_vs_fp32"] and row["mean_relative_error"] is not None]
    front = pareto_front([(row["compression_vs_fp32"], row["mean_relative_error"]) for row in sound])
    return {
        "number": group.number,
        "text": described,
        "front": [index[id(sound[i])] for i in front],
        "reference": [index[id(row)] for row in group.rows if is_reference(row)],
        "rankings": {
            need: {
                basis: [index[id(row)] for row in ranked]
                for basis, ranked in rankings(need, group.rows).items()
            }
            for need in NEEDS
        },
    }


def _layers(records: Sequence[Record]) -> dict[str, Any]:
    """Signal to quantization noise of every layer's weights in dB; "exact" where nothing was lost, null where it was kept."""
    found: dict[int, dict[str, Any]] = {}
    for i, record in enumerate(records):
        layers = dig(record, "layers")
        if not isinstance(layers, list) or not layers or len(found) == HEAT_ROWS:
            continue
        found[i] = {}
        for layer in layers:
            if (name := dig(layer, "name")) is not None:
                ratio = number(dig(layer, "weight_sqnr_db"))
                exact = "exact" if dig(layer, "exact") else None
                found[i][str(name)] = exact if ratio is None else round(ratio, 2)
    # Records list layers in the network's order; who quantized most knows it best.
    most_first = sorted(found.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for own in most_first for name in own))
    return {"names": names, "rows": {i: [own.get(name) for name in names] for i, own in found.items()}}


def _provenance(sources: Sequence[tuple[Path, Record]]) -> dict[str, Any]:
    """Per run its command, file, configuration and environment; both as the differences from the first run's."""
    configs = [settings_of(record) for _, record in sources]
    known: dict[str, dict[str, str]] = {}  # the runs of a sweep share one environment
    environments = []
    for _, record in sources:
        environment = record.get("environment")
        key = json.dumps(environment)
        if key not in known:
            known[key] = settings_of({"config": environment})
        environments.append(known[key])
    runs = []
    for (path, record), config, environment in zip(sources, configs, environments, strict=True):
        command = str(record.get("command") or "")
        runs.append(
            {
                "path": str(path),
                "command": command,
                "export": export_command(command, dig(record, "scheme", "format")),
                "started": record.get("started"),
                "hash": record.get("config_hash"),
                "seconds": number(dig(record, "seconds", "total")),
                "weights": [
                    str(dig(record, "model", key) or "") for key in ("source", "fingerprint", "licence")
                ],
                "config": _differences(configs[0], config),
                "environment": _differences(environments[0], environment),
                "notes": [str(note) for note in record.get("notes") or []],
                "traceback": str(dig(record, "error", "traceback") or ""),
            }
        )
    first = (
        {"config": configs[0], "environment": environments[0]}
        if sources
        else {"config": {}, "environment": {}}
    )
    return {"runs": runs, "first": first}


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
