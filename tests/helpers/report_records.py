"""Synthetic records as docs/record.md describes them, and what a report makes of them, for tests of the report."""

import copy
import json
from pathlib import Path
from typing import Any

from vggtq.metrics.table import HEADLINE, metrics
from vggtq.network.outputs import OUTPUTS
from vggtq.records.plain import parsed
from vggtq.records.schema import Record
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import Choice, recommend
from vggtq.report.rows.row import Row, record_row

PARAMETERS = 100_000_000
FP32_BYTES = 4 * PARAMETERS


def fidelity(errors: dict[str, float]) -> dict[str, Any]:
    measured: dict[str, Any] = {output: output_metrics(error) for output, error in errors.items()}
    mean = sum(errors.values()) / len(errors)
    return measured | {"pose": {metric.key: 30 * mean for metric in metrics("cameras")}}


def output_metrics(error: float) -> dict[str, Any]:
    identical = error == 0
    return {
        "mae": 0.5 * error,
        "mse": error**2,
        "rmse": error,
        "max_abs_error": 7.1 * error,
        "psnr": None if identical else 20.0 + 10 / (1 + error),
        "cosine": 1 - error**2,
        "relative_error": error,
        "ssim": 1 - error / 3,
        "cross_entropy": 5.0 + error,
        "reference_entropy": 5.0,
        "kl": error,
        "non_finite": 0,
        "identical": identical,
        "grades": {"relative_error": HEADLINE.grade(error), "cosine": "good"},
    }


def latency(speedup: float, spread: float = 0.05, rounds: int = 9) -> dict[str, Any]:
    ratios = [speedup + spread * 2 * (i / (rounds - 1) - 0.5) * 2 for i in range(rounds)]
    reference = [100.0 + i for i in range(rounds)]
    quantized = [ms / ratio for ms, ratio in zip(reference, ratios, strict=True)]
    fp32 = {"reference_ms": reference, "quantized_ms": quantized, "ratios": ratios, "speedup": speedup}
    fp32 |= {"speedup_q25": speedup - spread, "speedup_q75": speedup + spread}
    references = {"fp32": fp32, "bf16": {"skipped": "this CPU computes bfloat16 slower than float32"}}
    return {"rounds": rounds, "scene": "rooms_0", "frames": 2, "size": [56, 56], "references": references}


def record(
    label: str = "INT8 per channel",
    bits: float = 8,
    error: float | dict[str, float] = 0.005,
    speedup: float | None = 1.3,
    spread: float = 0.05,
    simulated: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """One successful record; `changes` replaces top-level keys (`model__fingerprint=…` nested ones)."""
    errors = error if isinstance(error, dict) else {o: error * (1 + i / 4) for i, o in enumerate(OUTPUTS)}
    stored = int(PARAMETERS * bits / 8) + (0 if bits == 32 else 1_000_000)
    name = label.lower().replace(" ", "_")
    quantized = 0 if bits == 32 else 72
    made: dict[str, Any] = {
        "schema_version": 1,
        "status": "ok",
        "name": name,
        "command": f"python -m vggtq scheme={name}",
        "started": "2026-11-02T10:00:00+00:00",
        "seconds": {"load": 1.0, "quantize": 2.0, "total": 12.5},
        "config": {"seed": 0},
        "config_hash": f"{abs(hash_of(label)):012x}"[:12],
        "environment": {"device": "cpu", "cpu": "Test CPU", "gpu": None, "threads": 2, "seed": 0},
        "scheme": {
            "name": name,
            "label": label,
            "family": None,
            "format": "int",
            "bits": bits,
            "symmetric": True,
        }
        | {"granularity": "channel", "group_size": None, "scale_dtype": "float32", "activation_bits": None},
        "model": {
            "name": "vggt_small",
            "weights": "facebook/VGGT-1B",
            "source": "hub",
            "fingerprint": "f" * 16,
        }
        | {"licence": "test", "parameters": PARAMETERS},
        "dataset": {"name": "rooms", "scenes": [{"name": "rooms_0", "frames": 2, "size": [56, 56]}]},
        "layers": [],
        "kept": [],
        "backends": {"reference" if simulated else "fbgemm": quantized},
        "simulated": simulated,
        "fidelity": fidelity(errors),
        "geometry": {
            side: {
                "pose": {"auc_3": 0.5 - loss, "auc_30": 0.9 - loss, "rra_5": 0.8},
                "depth": {"abs_rel": 0.1 + loss},
            }
            for side, loss in (("quantized", sum(errors.values()) / 10), ("reference", 0.0))
        },
        "size": {"stored_bytes": stored, "resident_bytes": stored + 4096, "float32_bytes": FP32_BYTES}
        | {"float16_bytes": FP32_BYTES // 2, "compression_vs_fp32": FP32_BYTES / stored}
        | {"compression_vs_fp16": FP32_BYTES / 2 / stored, "bits_per_weight": 8 * stored / PARAMETERS}
        | {"quantized_layers": quantized, "quantized_parameters": 0, "parameters": PARAMETERS},
        "latency": None if speedup is None else latency(speedup, spread),
        "memory": {
            "quantized": {"peak_rss_bytes": 2**30, "rss_before_load_bytes": 2**28, "cuda_peak_bytes": None},
            "reference": {"peak_rss_bytes": 2**31, "rss_before_load_bytes": 2**28, "cuda_peak_bytes": None},
            "reason": None,
        },
        "picture": "comparison.png",
        "notes": [],
    }
    made["dataset"]["scenes"][0] |= {"images_sha256": "a" * 64, "files": [], "notes": []}
    return change(made, **changes)


def hash_of(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode()) * 65537


def change(made: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(made)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        place[last] = value
    return made


def fp32(**changes: Any) -> dict[str, Any]:
    return record("FP32", bits=32, error=0.0, speedup=1.0, **changes)


def failed(
    label: str = "INT3 group 96", message: str = "group_size 96 does not divide 1024"
) -> dict[str, Any]:
    """A run that failed while quantizing: nothing is measured."""
    nothing = dict.fromkeys(
        ("layers", "kept", "backends", "simulated", "fidelity", "geometry", "size", "latency")
    )
    error = {"type": "QuantizationError", "message": message, "traceback": "Traceback …"}
    return record(label) | nothing | {"memory": None, "status": "failed", "error": error}


def refused(message: str = "group_size 96 does not divide 1024") -> dict[str, Any]:
    """A run that never started: neither weights nor images were loaded."""
    made = failed("INT9", message) | {"model": None, "dataset": None, "environment": None}
    made["error"] |= {"type": "ConfigError", "expected": True}
    return made


def with_scenes(
    made: dict[str, Any], gain: float, scenes: int = 8, names: list[str] | None = None
) -> dict[str, Any]:
    """The record with scores of each of its scenes; the quantized model's AUC@30 is `gain` above that of FP32, about."""
    names = names or [f"rooms_{i}" for i in range(scenes)]
    one = made["dataset"]["scenes"][0]
    made["dataset"]["scenes"] = [
        one | {"name": name} | ({"images_sha256": f"{i:064d}"} if i else {}) for i, name in enumerate(names)
    ]
    made["geometry"]["scenes"] = [
        {
            "scene": name,
            "quantized": {"pose": {"auc_30": 0.5 + i / 100 + gain * (1 + i / 50)}},
            "reference": {"pose": {"auc_30": 0.5 + i / 100}},
        }
        for i, name in enumerate(names)
    ]
    return made


def many(count: int) -> list[dict[str, Any]]:
    """FP32 and `count - 1` schemes with falling bits and rising error."""
    made = [fp32()]
    for i in range(count - 1):
        bits = 8 - 6 * i / max(count - 2, 1)
        label = f"INT{round(bits)} group {2 ** (4 + i % 4)}" + (
            " asymmetric, Hadamard rotation" if i % 3 == 1 else ""
        )
        error = 0.002 * 2 ** (8 - bits) * (1 + 0.3 * (i % 4))
        made.append(
            record(
                f"{label} v{i}",
                bits,
                error,
                None if i % 5 == 4 else 0.7 + 0.15 * (i % 6),
                simulated=i % 4 == 2,
            )
        )
    return made


def read(made: dict[str, Any]) -> Record:
    """The record that a file has."""
    return parsed(Record, made)


def row_of(made: dict[str, Any]) -> Row:
    return record_row(read(made))


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    """Each record in a run folder of its own."""
    for i, made in enumerate(records):
        run = folder / f"run_{i}"
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(made), encoding="utf-8")
    return folder


def choices(*records: dict) -> dict[str, Choice]:
    (group,) = group_rows([row_of(made) for made in records])
    return {choice.need: choice for choice in recommend(group.rows)}


def strict(path: Path) -> dict:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
