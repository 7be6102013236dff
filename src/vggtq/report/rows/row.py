"""One record -> one flat row -> one DataFrame. `columns.COLUMNS` names every column and its unit.

The headline error `mean_relative_error` is the arithmetic mean of `relative_error` over those of the five outputs that the
network gives. Not the geometric mean: one identical output (error 0) would make that 0 whatever the others lost. It is
undefined as soon as one of them was not scored or holds a non-finite value.

`None` stands for undefined in a row, NaN or NA in the frame, null in JSON, an empty cell in CSV.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vggtq.machine.environment import Environment
from vggtq.machine.timing import PairedLatency, quartiles
from vggtq.metrics.interval import Interval, paired_interval
from vggtq.metrics.metric import FIDELITY, GRADES, REFERENCES
from vggtq.metrics.results import Fidelity, Geometry, OutputFidelity, score
from vggtq.metrics.table import BUILT_IN, HEADLINE
from vggtq.network.outputs import OUTPUTS
from vggtq.records.domain import is_calibrated_elsewhere
from vggtq.records.of_model import ModelEntry, SchemeEntry
from vggtq.records.of_run import DatasetEntry, ErrorEntry, MemoryEntry, Skipped
from vggtq.records.plain import flag, nothing, number, text
from vggtq.records.reading import hardware, scenes_hash
from vggtq.records.schema import Record
from vggtq.report.rows.columns import COLUMNS, INTEGERS, PEAKS, SIZES

if TYPE_CHECKING:
    import pandas as pd


Row = dict[str, Any]
_METRICS = {
    output: tuple(f"{output}.{metric.key}" for metric in BUILT_IN if metric.scope in FIDELITY)
    for output in OUTPUTS
}


def record_row(record: Record) -> Row:
    """The row of one record: every name of `COLUMNS`, then whatever further numbers the record measured."""
    row: Row = dict.fromkeys(COLUMNS)
    row |= _identity(record) | _scheme(record.scheme or nothing(SchemeEntry))
    row |= _numbers(record.size, SIZES) | _engine(record)
    calibration = text(record.calibration.name) if record.calibration else None
    row["calibration"] = calibration
    row["calibrated_elsewhere"] = is_calibrated_elsewhere(calibration, row["dataset"])
    row["simulated"] = True if number((record.backends or {}).get("reference")) else flag(record.simulated)
    references = record.latency.references if record.latency else {}
    for reference in REFERENCES:
        row |= _latency(reference, references.get(reference))
    memory = record.memory or nothing(MemoryEntry)
    for side, measured in (("quantized", memory.quantized), ("reference", memory.reference)):
        row |= _numbers(measured, PEAKS, f"memory.{side}.")
    row |= _fidelity(record.fidelity or nothing(Fidelity))
    geometry = record.geometry or nothing(Geometry)
    _enter_numbers(row, "geometry.quantized", geometry.quantized)
    _enter_numbers(row, "geometry.reference", geometry.reference)
    _enter_numbers(row, "geometry.change", _changes(geometry))
    return row


def _changes(geometry: Geometry) -> dict[str, dict[str, Interval]]:
    """As the record has them; those without a p value come from a bootstrap, and are computed again from the scenes."""
    return {
        part: {
            key: _again(geometry, part, key, found) if found.p is None and found.low is not None else found
            for key, found in changes.items()
        }
        for part, changes in geometry.change.items()
    }


def _again(geometry: Geometry, part: str, key: str, found: Interval) -> Interval:
    sides = ((scene.quantized, scene.reference) for scene in geometry.scenes)
    pairs = ([number(score(side, part, key)) for side in both] for both in sides)
    again = paired_interval([q - r for q, r in pairs if q is not None and r is not None])
    return Interval(found.mean, again.low, again.high, found.scenes, again.p)


def _numbers(part: object, names: Iterable[str], prefix: str = "") -> Row:
    return {f"{prefix}{name}": number(getattr(part, name, None)) for name in names}


def _texts(part: object, names: Iterable[str]) -> Row:
    return {name: text(getattr(part, name)) for name in names}


def _engine(record: Record) -> Row:
    """Its name, and in place of the sizes of our own file those of its file, which stores more in float32."""
    engine, size = record.engine, record.size
    if engine is None:
        return {}
    row: Row = {"engine": text(engine.name), "arithmetic": text(engine.arithmetic)}
    bytes_ = number(engine.file_bytes)
    if not bytes_ or size is None:
        return row
    return row | {
        "stored_bytes": bytes_,
        "compression_vs_fp32": size.float32_bytes / bytes_,
        "compression_vs_fp16": size.float16_bytes / bytes_,
        "bits_per_weight": 8 * bytes_ / size.parameters,
    }


def _identity(record: Record) -> Row:
    model, data = record.model or nothing(ModelEntry), record.dataset or nothing(DatasetEntry)
    environment = record.environment or nothing(Environment)
    return {
        **_texts(record, ("name", "command", "status", "started", "config_hash")),
        "label": _label(record),
        "error": _error(record.error),
        "total_s": number(record.seconds.get("total")),
        "model": text(model.name),
        "weights": text(model.weights),
        "fingerprint": text(model.fingerprint),
        "dataset": text(data.name),
        "scenes": len(data.scenes) or None,
        "frames": sum(int(number(scene.frames) or 0) for scene in data.scenes) or None,
        "scenes_hash": scenes_hash(data.scenes),
        "device": text(environment.device),
        "hardware": text(hardware(environment)),
        "threads": number(environment.threads),
    }


def _scheme(scheme: SchemeEntry) -> Row:
    row: Row = {"scheme": text(scheme.name), "symmetric": flag(scheme.symmetric)}
    row |= _texts(scheme, ("family", "format", "granularity"))
    return row | _numbers(scheme, ("bits", "mean_bits", "group_size", "activation_bits"))


def _label(record: Record) -> str:
    scheme = record.scheme or nothing(SchemeEntry)
    names = map(text, (scheme.label, scheme.name, record.name))
    return next(filter(None, names), "?")


def _error(error: ErrorEntry | None) -> str | None:
    parts = (text(error.type), text(error.message)) if error else ()
    return " ".join(": ".join(part for part in parts if part).split()) or None


def _latency(reference: str, timing: PairedLatency | Skipped | None) -> Row:
    timing = timing if isinstance(timing, PairedLatency) else nothing(PairedLatency)
    row = _numbers(timing, ("speedup", "speedup_q25", "speedup_q75"), f"{reference}.")
    for side, samples in (("reference", timing.reference_ms), ("quantized", timing.quantized_ms)):
        q25, median, q75 = known_quartiles(samples)
        row |= {f"{reference}.{side}_ms_median": median}
        row |= {f"{reference}.{side}_ms_q25": q25, f"{reference}.{side}_ms_q75": q75}
    return row


def known_quartiles(samples: Iterable[Any]) -> tuple[float | None, float | None, float | None]:
    """Of the finite samples, or three times None."""
    finite = [value for value in map(number, samples) if value is not None]
    return quartiles(finite) if finite else (None, None, None)


def _fidelity(fidelity: Fidelity) -> Row:
    row: Row = {}
    for output in OUTPUTS:
        row |= _output(output, fidelity.outputs.get(output) or nothing(OutputFidelity))
    given = [output for output in OUTPUTS if output in fidelity.outputs] or OUTPUTS
    errors = [_of_identical(row, output, HEADLINE.key, HEADLINE.best) for output in given]
    grades = [_of_identical(row, output, "grade", GRADES[0]) for output in given]
    counts = [row[f"{output}.non_finite"] for output in given]
    row["non_finite"] = sum(count or 0 for count in counts) if any(counts) or None not in counts else None
    row["mean_relative_error"] = None if None in errors or row["non_finite"] else sum(errors) / len(errors)
    row["grade"] = None if None in grades or row["non_finite"] else max(grades, key=GRADES.index)
    _enter_numbers(row, "pose", fidelity.pose or {})
    return row


def _of_identical(row: Row, output: str, name: str, perfect: Any) -> Any:
    """An output that equals an all-zero reference has no relative error of its own (0/0), yet lost nothing."""
    value = row[f"{output}.{name}"]
    return perfect if value is None and row[f"{output}.identical"] else value


def _output(output: str, measured: OutputFidelity) -> Row:
    row: Row = dict.fromkeys(_METRICS[output])
    _enter_numbers(row, output, measured.metrics)
    count = measured.non_finite
    row[f"{output}.non_finite"] = int(count) if isinstance(count, bool) else number(count)
    row[f"{output}.identical"] = flag(measured.identical)
    grade = text(measured.grades.get(HEADLINE.key))
    row[f"{output}.grade"] = grade if grade in GRADES else None
    return row


def _enter_numbers(row: Row, prefix: str, measured: Mapping[str, Any]) -> None:
    """Enter every number below `measured` under its dotted name."""
    for name, value in measured.items():
        if isinstance(value, dict):
            _enter_numbers(row, f"{prefix}.{name}", value)
        elif isinstance(value, Interval):
            _enter_numbers(row, f"{prefix}.{name}", vars(value))
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            row[f"{prefix}.{name}"] = number(value)


def names_of(rows: Iterable[Row]) -> list[str]:
    """The columns of some rows: `COLUMNS` in their order, further ones behind."""
    return list(dict.fromkeys(COLUMNS) | {name: None for row in rows for name in row})


def frame_of(rows: Iterable[Row]) -> "pd.DataFrame":
    """The rows as a DataFrame, one per run."""
    import pandas as pd

    rows = list(rows)
    frame = pd.DataFrame(rows, columns=names_of(rows))
    # of those that hold integers and nothing else: float64 prints 4793 as 4793.0 beside an empty cell
    whole = [name for name in INTEGERS if not any(isinstance(row.get(name), float) for row in rows)]
    return frame.astype(dict.fromkeys(whole, "Int64"))
