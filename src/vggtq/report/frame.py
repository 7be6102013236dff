"""One record -> one flat row -> one DataFrame. `columns.COLUMNS` names every column and its unit.

The headline error `mean_relative_error` is the arithmetic mean of `relative_error` over the five outputs. Not the
geometric mean: one identical output (error 0) would make that 0 whatever the other four lost. It is undefined
as soon as one output is missing or holds a non-finite value.

`None` stands for undefined in a row, NaN or NA in the frame, null in JSON, an empty cell in CSV.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vggtq.report.columns import COLUMNS, GRADES, INTEGERS, MEMORY, METRICS, OUTPUTS, REFERENCES, SIZES
from vggtq.report.records import Record, dig, hardware, scenes_hash

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
_METRICS = {output: tuple(f"{output}.{metric}" for metric in METRICS) for output in OUTPUTS}


def record_row(record: Record) -> Row:
    """The row of one record: every name of `COLUMNS`, then whatever further numbers the record measured."""
    row: Row = dict.fromkeys(COLUMNS)
    row |= _identity(record) | _scheme(record)
    row |= {name: number(dig(record, "size", name)) for name in SIZES}
    row["simulated"] = _simulated(record)
    for reference in REFERENCES:
        row |= _latency(reference, dig(record, "latency", "references", reference))
    row |= {name: number(dig(record, *name.split("."))) for name in MEMORY}
    row |= _fidelity(record)
    for side in ("quantized", "reference", "change"):
        _enter_numbers(row, f"geometry.{side}", dig(record, "geometry", side))
    return row


def _identity(record: Record) -> Row:
    device, name = hardware(record)
    scenes = dig(record, "dataset", "scenes")
    scenes = scenes if isinstance(scenes, list) else []
    return {
        "label": _label(record),
        "name": text(record.get("name")),
        "command": text(record.get("command")),
        "status": text(record.get("status")),
        "error": _error(record),
        "started": text(record.get("started")),
        "total_s": number(dig(record, "seconds", "total")),
        "config_hash": text(record.get("config_hash")),
        "model": text(dig(record, "model", "name")),
        "weights": text(dig(record, "model", "weights")),
        "fingerprint": text(dig(record, "model", "fingerprint")),
        "dataset": text(dig(record, "dataset", "name")),
        "scenes": len(scenes) or None,
        "frames": sum(_count(scene) for scene in scenes) or None,
        "scenes_hash": scenes_hash(record),
        "device": text(device),
        "hardware": text(name),
        "threads": number(dig(record, "environment", "threads")),
    }


def _scheme(record: Record) -> Row:
    scheme = dig(record, "scheme")
    row: Row = {"scheme": text(dig(scheme, "name")), "symmetric": flag(dig(scheme, "symmetric"))}
    row |= {name: text(dig(scheme, name)) for name in ("family", "format", "granularity")}
    numbers = ("bits", "mean_bits", "group_size", "activation_bits")
    return row | {name: number(dig(scheme, name)) for name in numbers}


def _label(record: Record) -> str:
    names = (dig(record, "scheme", "label"), dig(record, "scheme", "name"), record.get("name"))
    return next((name for name in (text(name) for name in names) if name), "?")


def _error(record: Record) -> str | None:
    error = record.get("error")
    parts = (
        [text(dig(error, "type")), text(dig(error, "message"))] if isinstance(error, dict) else [text(error)]
    )
    return ": ".join(part for part in parts if part) or None


def _count(scene: Any) -> int:
    frames = dig(scene, "frames")
    return len(frames) if isinstance(frames, list) else int(number(frames) or 0)


def _simulated(record: Record) -> bool | None:
    if number(dig(record, "backends", "reference")):
        return True
    return flag(record.get("simulated"))


def _latency(reference: str, timing: Any) -> Row:
    row: Row = {
        f"{reference}.{name}": number(dig(timing, name)) for name in ("speedup", "speedup_q25", "speedup_q75")
    }
    for side in ("reference", "quantized"):
        q25, median, q75 = quartiles(dig(timing, f"{side}_ms"))
        row |= {f"{reference}.{side}_ms_median": median}
        row |= {f"{reference}.{side}_ms_q25": q25, f"{reference}.{side}_ms_q75": q75}
    return row


def _fidelity(record: Record) -> Row:
    row: Row = {}
    for output in OUTPUTS:
        row |= _output(output, dig(record, "fidelity", output))
    errors = [_of_identical(row, output, "relative_error", 0.0) for output in OUTPUTS]
    grades = [_of_identical(row, output, "grade", GRADES[-1]) for output in OUTPUTS]
    counts = [row[f"{output}.non_finite"] for output in OUTPUTS]
    row["non_finite"] = sum(count or 0 for count in counts) if any(counts) or None not in counts else None
    row["mean_relative_error"] = None if None in errors or row["non_finite"] else sum(errors) / len(errors)
    row["grade"] = None if None in grades or row["non_finite"] else min(grades, key=GRADES.index)
    _enter_numbers(row, "pose", dig(record, "fidelity", "pose"))
    return row


def _of_identical(row: Row, output: str, name: str, perfect: Any) -> Any:
    """An output that equals an all-zero reference has no relative error of its own (0/0), yet lost nothing."""
    value = row[f"{output}.{name}"]
    return perfect if value is None and row[f"{output}.identical"] else value


def _output(output: str, measured: Any) -> Row:
    row: Row = dict.fromkeys(_METRICS[output])
    _enter_numbers(row, output, measured)
    row[f"{output}.non_finite"] = _as_count(dig(measured, "non_finite"))
    row[f"{output}.identical"] = flag(dig(measured, "identical"))
    grade = text(dig(measured, "grades", "relative_error"))
    row[f"{output}.grade"] = grade if grade in GRADES else None
    return row


def _as_count(value: Any) -> float | None:
    return int(value) if isinstance(value, bool) else number(value)


def _enter_numbers(row: Row, prefix: str, measured: Any) -> None:
    """Enter every number below `measured` under its dotted name."""
    for name, value in measured.items() if isinstance(measured, dict) else ():
        if isinstance(value, dict):
            if name != "grades":
                _enter_numbers(row, f"{prefix}.{name}", value)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            row[f"{prefix}.{name}"] = number(value)


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None; an integer stays one."""
    if type(value) is float:  # most are: ten thousand records have millions
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: Any) -> str | None:
    return None if value is None else str(value)


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def quartiles(samples: Any) -> tuple[float | None, float | None, float | None]:
    """(q25, median, q75) of the finite samples, or three times None."""
    finite = [
        value for value in map(number, samples if isinstance(samples, list) else []) if value is not None
    ]
    if not finite:
        return None, None, None
    finite.sort()  # by hand: for ten samples, NumPy takes fifty times as long to start
    q25, median, q75 = (_between(finite, share * (len(finite) - 1)) for share in (0.25, 0.5, 0.75))
    return q25, median, q75


def _between(ordered: list[float], place: float) -> float:
    """Linear interpolation between the two values around `place`."""
    low = ordered[int(place)]
    return low + (ordered[min(int(place) + 1, len(ordered) - 1)] - low) * (place % 1)


def names_of(rows: Iterable[Row]) -> list[str]:
    """The columns of some rows: `COLUMNS` in their order, further ones behind."""
    return list(dict.fromkeys(COLUMNS) | {name: None for row in rows for name in row})


def whole_numbers(rows: Sequence[Row]) -> list[str]:
    """The columns that hold integers and nothing else: float64 prints 4793 as 4793.0 beside an empty cell."""
    return [name for name in INTEGERS if not any(isinstance(row.get(name), float) for row in rows)]


def frame_of(rows: Iterable[Row]) -> "pd.DataFrame":
    """The rows as a DataFrame, one per run."""
    import pandas as pd

    rows = list(rows)
    frame = pd.DataFrame(rows, columns=names_of(rows))
    return frame.astype(dict.fromkeys(whole_numbers(rows), "Int64"))


def rows_of(frame: "pd.DataFrame") -> list[Row]:
    """The frame as rows again, with None for whatever is undefined."""
    import pandas as pd

    def plain(value: Any) -> Any:
        return None if pd.isna(value) else value.item() if hasattr(value, "item") else value

    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
