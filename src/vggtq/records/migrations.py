"""Records of older schema versions in the present form: one function for each step from a version to the next.

1 → 2: `memory` had two forms under version 1. The first runs measured one process in which both models were alive
(`peak_rss_bytes`, `predict_peak_increase_bytes`); later ones measure each model in a process of its own (`quantized`,
`reference`). The old numbers answer another question: they are kept as `both_alive`, and the new ones are null with a reason.

A step gets a copy of its own and may change it. Keys that a version did not have yet need no step: they read as null.
"""

from collections.abc import Callable
from typing import Any

from vggtq.records.schema import SCHEMA_VERSION

Values = dict[str, Any]  # a record as the file has it


class UnknownVersion(ValueError):
    """`newer`: written by a later vggtq; else no version that ever was."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.newer = isinstance(found, int) and not isinstance(found, bool) and found > SCHEMA_VERSION
        super().__init__(f"schema_version {found!r} is not one of 1 to {SCHEMA_VERSION}")


def migrated(record: Values) -> Values:
    """`record` in the form of SCHEMA_VERSION. UnknownVersion where no step leads from its version."""
    version = record.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise UnknownVersion(version)
    for step in range(version, SCHEMA_VERSION):
        record = STEPS[step](dict(record)) | {"schema_version": step + 1}
    return record


def _one_to_two(record: Values) -> Values:
    memory = record.get("memory")
    if isinstance(memory, dict) and memory.keys().isdisjoint(("quantized", "reference")):
        reason = "measured with both models alive in one process, by a version that knew no other way"
        record["memory"] = {"quantized": None, "reference": None, "reason": reason, "both_alive": memory}
    return record


STEPS: dict[int, Callable[[Values], Values]] = {1: _one_to_two}
