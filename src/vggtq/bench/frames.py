"""Peak memory and latency against the number of frames, each measured in a process of its own."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggtq import artifact
from vggtq.bench.networks import INT4
from vggtq.bench.table import title_of
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.files.atomic import replacing, temporary_folder, write_text
from vggtq.files.tensors import write_safetensors
from vggtq.machine.device import has_bf16
from vggtq.machine.environment import Environment
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.records.plain import plain
from vggtq.run.fresh_memory import FLOAT32, CannotMeasureError, measure_in_process
from vggtq.terminal.progress import Steps


@dataclass(frozen=True)
class Case:
    """A model with random weights, which take as much memory as trained ones, and the square images it sees."""

    model: str
    size: int
    frames: tuple[int, ...]
    predictions: int  # the first is cold, the others are timed


CASES = (Case("vggt_small", 224, (2, 5, 10, 20, 35, 50), predictions=3),)
# Up to 20 frames everything fits into 24 GB, and the whole takes about half an hour on two cores.
FULL_CASES = (*CASES, Case("vggt_1b", 224, (2, 5, 10, 20), predictions=2))

# label: the scheme of the artifact, and the precision of the layers left in float
KINDS = {
    "FP32": (FLOAT32, "float32"),
    "BF16": (FLOAT32, "bfloat16"),
    "W8A8": (Scheme("int8_dynamic", Weights(), activations=Activations("dynamic")), "float32"),
    "INT4 group 64": (Scheme("int4_group", INT4), "float32"),
}


def frames(device: torch.device, env: Environment, out: Path, full: bool) -> None:
    """Measures, writes `frames.json` and `frames.png` into `out`, prints a table."""
    rows: list[dict[str, Any]] = []
    with Steps() as steps:
        for case in FULL_CASES if full else CASES:
            for row in _rows(case, device, out):
                rows.append(row)
                steps.step(f"after {row['model']}, {row['kind']}, {row['frames']} frames")
    write_text(out / "frames.json", json.dumps(plain({"environment": env, "rows": rows}), indent=1))
    _plot(rows, env, out / "frames.png")
    _print(rows, env)
    print(f"{out}/frames.json {out}/frames.png")


def _rows(case: Case, device: torch.device, out: Path) -> Iterator[dict[str, Any]]:
    config = validated(compose([f"model={case.model}", "model.source=null", "dataset=rooms"]))
    with temporary_folder(out) as folder:
        paths = _save(config, folder)
        for count in case.frames:
            images = folder / f"{count}.safetensors"
            write_safetensors(images, {"images": _images(count, case.size)}, {})
            for kind, (scheme, precision) in KINDS.items():
                if kind == "BF16" and not has_bf16(device):
                    continue
                row = {"model": case.model, "size": case.size, "frames": count, "kind": kind}
                try:
                    yield row | measure_in_process(
                        paths[scheme.name], images, device, precision, case.predictions
                    )
                except CannotMeasureError as error:
                    yield row | {"failed": str(error)}  # it did not fit into memory, which is a result


def _save(config: Any, folder: Path) -> dict[str, Path]:
    """One artifact per scheme; the model itself is released before anything is measured."""
    model: LoadedModel = config.model.load(torch.device("cpu"))
    paths = {}
    for scheme, _ in KINDS.values():
        paths[scheme.name] = folder / f"{scheme.name}.safetensors"
        twin = share_parameters(model.module)
        quantization = quantize_(twin, scheme)
        artifact.save(twin, paths[scheme.name], scheme, quantization, model.weights, config.model.identity())
    return paths


def _images(frames: int, size: int) -> Tensor:
    """(frames, 3, size, size), noise, because the content of an image changes neither bytes nor time."""
    return torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def memory_bytes(row: dict[str, Any]) -> int | None:
    """Bytes that loading and predicting add to an idle process; on CUDA, the most that torch had allocated."""
    if row["cuda_peak_bytes"] is not None:
        return int(row["cuda_peak_bytes"])
    if row["predict_peak_rss_bytes"] is None:
        return None
    return int(row["predict_peak_rss_bytes"] - row["rss_before_load_bytes"])


def _plot(rows: list[dict[str, Any]], env: Environment, path: Path) -> None:
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(10, 3.6 * len(models) + 0.4), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False)
    for model, (memory, seconds) in zip(models, grid, strict=True):
        ran = [row for row in rows if row["model"] == model and "failed" not in row]
        for kind in KINDS:
            own = [row for row in ran if row["kind"] == kind]
            counts = [row["frames"] for row in own]
            memory.plot(
                counts, [(memory_bytes(row) or float("nan")) / 2**20 for row in own], "o-", label=kind
            )
            seconds.plot(counts, [row["warm_seconds"] for row in own], "o-", label=kind)
        size = ran[0]["size"] if ran else "?"
        memory.set(title=f"{model}, {size} × {size} pixels", ylabel="memory while predicting, MiB")
        seconds.set(title=f"{model}, {size} × {size} pixels", ylabel="seconds per prediction")
        for axes in (memory, seconds):
            axes.set(xlabel="frames", ylim=(0, None), xticks=sorted({row["frames"] for row in ran}))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    figure.suptitle(title_of(env), fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)


def _print(rows: list[dict[str, Any]], env: Environment) -> None:
    from rich.console import Console
    from rich.table import Table

    caption = "memory: peak while predicting above the level before loading, a process each"
    table = Table(title=title_of(env), caption=caption)
    for heading in ("model", "frames", "what", "memory (MiB)", "of which weights (MiB)", "seconds"):
        table.add_column(heading, justify="left" if heading in ("model", "what") else "right")
    for row in rows:
        cells = [row["model"], str(row["frames"]), row["kind"]]
        table.add_row(*cells, *([row["failed"], "", ""] if "failed" in row else _cells(row)))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    peak, loaded, before = memory_bytes(row), row["rss_loaded_bytes"], row["rss_before_load_bytes"]
    memory = "–" if peak is None else f"{peak / 2**20:.0f}"
    weights = "–" if loaded is None or before is None else f"{(loaded - before) / 2**20:.0f}"
    return [memory, weights, f"{row['warm_seconds']:.2f}"]
