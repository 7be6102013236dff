"""Sensitivities that records carry: one map for all runs that measured the same, and of each run the bits that it chose."""

import json
from collections.abc import Iterable
from typing import Any

from vggtq.records.of_model import SensitivityEntry
from vggtq.records.plain import number
from vggtq.records.schema import Record


def sensitivities_of(records: Iterable[tuple[int, Record]]) -> dict[str, Any]:
    """maps: {bits, layers, errors (layer, width)}; rows: index of a record to its map and the width of each layer."""
    maps: dict[str, dict[str, Any]] = {}
    rows: dict[int, dict[str, Any]] = {}
    for i, record in records:
        if record.allocation is None or (found := _map(record.allocation.sensitivity)) is None:
            continue
        key = json.dumps(found)
        maps.setdefault(key, found)
        bits = {str(layer.name): number(layer.bits) for layer in record.layers or ()}
        # A unit of several weights is named by all of them, which have the same bits.
        picked = [bits.get(str(name).split(" + ")[0]) for name in found["layers"]]
        rows[i] = {"map": list(maps).index(key), "picked": picked}
    return {"maps": list(maps.values()), "rows": rows}


def _map(measured: SensitivityEntry) -> dict[str, Any] | None:
    """The map of one record; None where it has none, or one that is not whole."""
    bits, layers, errors = measured.bits, measured.layers, measured.relative_error
    if not (bits and layers and errors) or len(errors) != len(layers):
        return None
    rows = [[number(value) for value in row] if isinstance(row, list) else [] for row in errors]
    if any(len(row) != len(bits) or None in row for row in rows):
        return None
    return {
        "bits": [number(width) for width in bits],
        "layers": [str(name) for name in layers],
        "errors": [[float(f"{value:.4g}") for value in row if value is not None] for row in rows],
    }
