"""Writes the record of a run: `result.json`, strict JSON, under a temporary name that is changed at the end."""

import json
import os
import traceback
from pathlib import Path

from vggtq.errors import VggtqError
from vggtq.files.atomic import replacing
from vggtq.records.of_run import ErrorEntry
from vggtq.records.plain import plain
from vggtq.records.reading import read_record
from vggtq.records.schema import FILE_NAME, PREVIOUS_NAME, Record


def error_entry(error: BaseException) -> ErrorEntry:
    """The record's `error`. `expected`: the message tells the user all there is to know, so no traceback is shown."""
    message = str(error) or {"KeyboardInterrupt": "interrupted by the user"}.get(
        type(error).__name__, repr(error)
    )
    trace = "".join(traceback.format_exception(error))
    return ErrorEntry(type(error).__name__, message, isinstance(error, VggtqError), trace)


def write_record(record: Record, folder: Path, keep_earlier: bool = False) -> Path:
    """Writes `result.json` atomically: a reader sees the old file or the new one, never a part.

    A failed run does not destroy what an earlier one measured: that record is kept as `result.previous.json`, as it is
    whenever `keep_earlier` asks for it.
    """
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    path = folder / FILE_NAME
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        lost = record.status != "ok" and (earlier := record_in(folder)) and earlier.status == "ok"
        if keep_earlier or lost:
            with replacing(folder / PREVIOUS_NAME) as previous:
                previous.write_bytes(path.read_bytes())
    return path


def record_in(folder: Path) -> Record | None:
    """The record of a run folder; None if there is none, or something else."""
    try:
        return read_record(folder / FILE_NAME)
    except (OSError, ValueError):
        return None
