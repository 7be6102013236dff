"""The record of a run: `result.json`, strict JSON, written to a temporary name and renamed. Schema: docs/record.md."""

import json
import math
import os
import traceback
from pathlib import Path
from typing import Any

from vggtq.atomic import replacing
from vggtq.errors import VggtqError

SCHEMA_VERSION = 2
FILE_NAME = "result.json"
PREVIOUS_NAME = "result.previous.json"

KEYS = (
    *(
        "schema_version",
        "status",
        "error",
        "name",
        "command",
        "sweep",
        "started",
        "seconds",
        "config",
        "config_hash",
    ),
    *(
        "environment",
        "inputs",
        "scheme",
        "model",
        "dataset",
        "baseline",
        "layers",
        "fused",
        "kept",
        "calibration",
        "finetune",
        "allocation",
        "backends",
        "simulated",
        "fidelity",
        "fidelity_scenes",
        "geometry",
    ),
    *("size", "latency", "memory", "picture", "preview", "artifact", "predictions", "rescored", "notes"),
)


def empty_record() -> dict[str, Any]:
    """All keys, nothing known yet: what a run that fails at once leaves."""
    return dict.fromkeys(KEYS) | {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "seconds": {},
        "notes": [],
    }


def error_entry(error: BaseException) -> dict[str, Any]:
    """The record's `error`. `expected`: the message tells the user all there is to know, so no traceback is shown."""
    message = str(error) or {"KeyboardInterrupt": "interrupted by the user"}.get(
        type(error).__name__, repr(error)
    )
    return {
        "type": type(error).__name__,
        "message": message,
        "expected": isinstance(error, VggtqError),
        "traceback": "".join(traceback.format_exception(error)),
    }


def write_record(record: dict[str, Any], folder: Path, keep_earlier: bool = False) -> Path:
    """Writes `result.json` atomically: a reader sees the old file or the new one, never a part.

    A failed run does not destroy what an earlier one measured: that record is kept as `result.previous.json`, as it is
    whenever `keep_earlier` asks for it.
    """
    text = json.dumps(jsonable(record), indent=1, allow_nan=False, ensure_ascii=False)
    path = folder / FILE_NAME
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        if keep_earlier or (record["status"] != "ok" and _is_ok(folder)):
            with replacing(folder / PREVIOUS_NAME) as previous:
                previous.write_bytes(path.read_bytes())
    return path


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run folder in the present form; None if there is none, or something else."""
    from vggtq.migrations import UnknownVersion, migrated

    try:
        record = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        known = isinstance(record, dict) and record.get("status") in ("ok", "failed")
        return migrated(record) if known else None
    except (OSError, UnknownVersion, ValueError):
        return None


def _is_ok(folder: Path) -> bool:
    return (read_record(folder) or {}).get("status") == "ok"


def jsonable(value: Any) -> Any:
    """Plain JSON values; NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "item"):
        return jsonable(value.item())
    return str(value)
