"""The report's part of a record: its row and the origin of its numbers, about a tenth of the whole."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.records.of_model import ModelEntry
from vggtq.records.of_run import DatasetEntry
from vggtq.records.plain import nothing, number
from vggtq.records.schema import Record
from vggtq.report.rows.row import Row, record_row
from vggtq.report.rows.titles import flat

_SAMPLE = 200  # runs: the values common in them are common enough


@dataclass
class Source:
    """One record, read. `settings` and `environment` are flat: dotted key -> value as one would type it."""

    path: Path
    row: Row
    settings: dict[str, str]
    environment: dict[str, str]
    scenes: list[str]
    weights: list[str]  # source, fingerprint, licence
    notes: list[str]
    traceback: str
    refused: bool  # before it started: nothing was loaded, and the message says all there is to know
    preview: str | None
    has_layers: bool
    metrics: list[dict[str, Any]]  # the record's description of those from outside of vggtq


def source_of(path: Path, record: Record) -> Source:
    model, data = record.model or nothing(ModelEntry), record.dataset or nothing(DatasetEntry)
    return Source(
        path,
        record_row(record),
        flat(record.config),
        flat(vars(record.environment) if record.environment else None),
        [str(scene.name) for scene in data.scenes],
        [str(value or "") for value in (model.source, model.fingerprint, model.licence)],
        [str(note) for note in record.notes],
        str(record.error.traceback or "") if record.error else "",
        bool(record.error and record.error.expected and model.fingerprint is None),
        str(record.preview) if record.preview and record.status == "ok" else None,
        bool(record.layers),
        record.metrics or [],
    )


def commonest(all_settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Settings with their commonest value among a sample: others are given as differences from them."""
    counts: dict[str, Counter[str]] = {}
    for settings in all_settings[:: len(all_settings) // _SAMPLE + 1]:
        for key, value in settings.items():
            counts.setdefault(key, Counter())[value] += 1
    return {key: count.most_common(1)[0][0] for key, count in counts.items()}


def differences(first: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str | None]:
    """The values of `own` that differ from those of `first`; None for a key that it lacks."""
    changed: dict[str, str | None] = {key: value for key, value in own.items() if first.get(key) != value}
    return changed | {key: None for key in first if key not in own}


def layer_ratios(record: Record) -> dict[str, float | str | None]:
    """Signal to quantization noise of every layer's weights in dB; "exact" where nothing was lost."""
    found: dict[str, float | str | None] = {}
    for layer in record.layers or ():
        if layer.name is not None:
            ratio, exact = number(layer.weight_sqnr_db), "exact" if layer.exact else None
            found[str(layer.name)] = exact if ratio is None else round(ratio, 2)
    return found
