"""What the report keeps of one record: its row and where its numbers come from, about a tenth of the whole."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.report.frame import Row, number, record_row
from vggtq.report.records import Record, dig
from vggtq.report.titles import flat

_SAMPLE = 200  # runs: what is common in them is common enough


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
    preview: str | None
    has_layers: bool


def source_of(path: Path, record: Record) -> Source:
    scenes, notes = dig(record, "dataset", "scenes"), record.get("notes")
    preview = record.get("preview") if record.get("status") == "ok" else None
    return Source(
        path,
        record_row(record),
        flat(record.get("config")),
        flat(record.get("environment")),
        [str(dig(scene, "name")) for scene in scenes] if isinstance(scenes, list) else [],
        [str(dig(record, "model", key) or "") for key in ("source", "fingerprint", "licence")],
        [str(note) for note in notes] if isinstance(notes, list) else [],
        str(dig(record, "error", "traceback") or ""),
        str(preview) if preview else None,
        bool(dig(record, "layers")),
    )


def commonest(all_settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Settings with their commonest value among a sample: what others are told as differences from."""
    counts: dict[str, Counter[str]] = {}
    for settings in all_settings[:: len(all_settings) // _SAMPLE + 1]:
        for key, value in settings.items():
            counts.setdefault(key, Counter())[value] += 1
    return {key: count.most_common(1)[0][0] for key, count in counts.items()}


def layer_ratios(record: Record) -> dict[str, float | str | None]:
    """Signal to quantization noise of every layer's weights in dB; "exact" where nothing was lost."""
    layers = record.get("layers")
    found: dict[str, Any] = {}
    for layer in layers if isinstance(layers, list) else ():
        if (name := dig(layer, "name")) is not None:
            ratio = number(dig(layer, "weight_sqnr_db"))
            exact = "exact" if dig(layer, "exact") else None
            found[str(name)] = exact if ratio is None else round(ratio, 2)
    return found
