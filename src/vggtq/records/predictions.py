"""The predictions of a run, kept for scoring it again: `predictions.safetensors` beside the record (save_predictions=true).

Per scene `i` the outputs of both models as they were scored, float32, under `i.reference.NAME` and `i.quantized.NAME`, and
the ground truth under `i.truth.extrinsics`, `.intrinsics` (float64) and `.depth` (float32); names and sizes: the header.
Float16 would change every score, and identical outputs might not stay identical.

Scenes are written one by one, as parts, and put together at the end: no more than one of them is in memory.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.data.scene import GroundTruth, Scene
from vggtq.errors import DataError
from vggtq.files.tensors import write_safetensors
from vggtq.records.of_run import PredictionsEntry

FILE_NAME = "predictions.safetensors"
FORMAT = "vggtq predictions 1"
_TRUTH = ("extrinsics", "intrinsics", "depth")

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Predicted:
    """One scene as both models saw it."""

    name: str
    size_hw: tuple[int, int]  # of the preprocessed frames
    reference: Outputs
    quantized: Outputs
    truth: GroundTruth


class Predictions:
    """Collects the scenes of a run in its folder; `write` leaves the one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scenes: list[dict[str, Any]] = []

    def add(self, scene: Scene, reference: Outputs, quantized: Outputs) -> None:
        """Outputs as from `LoadedModel.predict`."""
        i = len(self.scenes)
        tensors: dict[str, Tensor] = {}
        for side, outputs in (("reference", reference), ("quantized", quantized)):
            tensors |= {f"{i}.{side}.{name}": tensor for name, tensor in outputs.items()}
        known = {name: getattr(scene.truth, name) for name in _TRUTH}
        tensors |= {f"{i}.truth.{name}": tensor for name, tensor in known.items() if tensor is not None}
        write_safetensors(self.folder / _part(i), tensors, {})
        size = list(scene.images.shape[-2:])
        self.scenes.append({"name": scene.name, "size": size, "metric": scene.truth.metric})

    def write(self) -> PredictionsEntry:
        """The record's `predictions`."""
        with ExitStack() as parts:
            tensors: dict[str, Tensor] = {}
            for i in range(len(self.scenes)):
                path = str(self.folder / _part(i))
                file = parts.enter_context(safe_open(path, framework="pt"))  # mapped: read as it is copied
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = {"format": FORMAT, "scenes": json.dumps(self.scenes)}
            size = write_safetensors(self.folder / FILE_NAME, tensors, header)
        remove_parts(self.folder)
        return PredictionsEntry(FILE_NAME, size, "float32", len(self.scenes))


def _part(index: int) -> str:
    return f".predictions-{index}.part"


def remove_parts(folder: Path) -> None:
    for path in folder.glob(".predictions-*.part"):
        path.unlink()


def read_predictions(path: Path) -> Iterator[Predicted]:
    """The scenes of the file, one at a time. DataError for anything that is no such file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(f"{path} holds no predictions of vggtq; run again with save_predictions=true")
            names = list(file.keys())
            for i, said in enumerate(json.loads(header["scenes"])):
                own = {name: file.get_tensor(name) for name in names if name.startswith(f"{i}.")}
                sides = {side: _of(own, f"{i}.{side}.") for side in ("reference", "quantized", "truth")}
                truth = GroundTruth(**sides.pop("truth"), metric=bool(said["metric"]))
                yield Predicted(said["name"], (said["size"][0], said["size"][1]), truth=truth, **sides)
    except FileNotFoundError as error:
        raise DataError(f"{path} is gone; run again with save_predictions=true") from error
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} is damaged ({error}); run again with save_predictions=true") from error


def _of(tensors: Outputs, prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
