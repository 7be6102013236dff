"""From a quantized network to a file of an engine, written only if the engine computes there what we compute."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vggtq.engines.extras import required
from vggtq.engines.layers import EXACT_INPUTS, ONNX, OPENVINO
from vggtq.engines.network import MOST_FRAMES, ExportedNetwork, exportable
from vggtq.engines.onnx_file import write_onnx
from vggtq.engines.openvino_file import write_openvino
from vggtq.engines.parity import OutputParity, check, compare
from vggtq.engines.process import EngineProcess
from vggtq.engines.torch_file import write_torch
from vggtq.errors import ConfigError, DiskFull, ExportError
from vggtq.files.atomic import temporary_folder, write_text
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.kernels.linear import QuantLinear

log = logging.getLogger(__name__)

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "torch_export": (),
}
LEAST_FREE = 2.5  # times the bytes of the network, on the disk


@dataclass(frozen=True)
class ExportedFile:
    """A written export. files: all that belong to it; parity: by output."""

    path: Path
    files: tuple[Path, ...]
    engine: str
    parity: dict[str, OutputParity]

    @property
    def file_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def check_format(format_: str, path: Path) -> None:
    """Raises ConfigError for a name with another ending, MissingExtraError where the engine is not installed."""
    for package in PACKAGES[format_]:
        required(package, "openvino" if format_ == "openvino" else "onnx")
    suffix = SUFFIXES[format_]
    if path.suffix != suffix:
        raise ConfigError(
            f"out={path}: format={format_} writes a {suffix} file; use out={path.with_suffix(suffix)}"
        )


def export_network(
    model: nn.Module,
    format_: str,
    path: Path,
    images: Tensor,
    metadata: Mapping[str, str],
    keep: bool = True,
) -> ExportedFile:
    """Writes the network for images of this size, and NAME.json with its parity. Raises ExportError and DiskFull.

    images: (S, 3, H, W) float32 on the CPU, S > 1; what parity is measured on. metadata: what the file says of its origin.
    keep: False makes the model useless, and saves the memory of its codes while the file is made.
    """
    known = dict(metadata) | {
        "size": json.dumps(list(images.shape[-2:])),
        "most_frames": str(MOST_FRAMES),
    }
    ours, exact = _predictions(model, images)
    _check_disk(model, path)
    weights_rounded = _rounds_weights(model)
    with temporary_folder(path.parent.absolute()) as folder:
        inside = folder / path.name
        engine_rounds = _write(model, format_, inside, images, known, list(ours), keep)
        engine, found = _predicted_by_engine(inside, images)
        otherwise = engine_rounds or weights_rounded
        parity = compare(found, ours, exact, otherwise)
        for name, entry in parity.items():
            log.info("parity  %s: relative error %.2g, limit %.2g", name, entry.error, entry.limit)
        check(parity, engine)
        record = {
            "engine": engine,
            **known,
            "parity": {name: asdict(entry) for name, entry in parity.items()},
        }
        write_text(folder / f"{path.name}.json", json.dumps(record, indent=1) + "\n")
        # The file itself last, so that where it is, the others are too.
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            file.replace(path.with_name(file.name))
    files = tuple(path.with_name(file.name) for file in written if not file.name.endswith(".json"))
    return ExportedFile(path, files, engine, parity)


def _write(
    model: nn.Module,
    format_: str,
    path: Path,
    images: Tensor,
    known: Mapping[str, str],
    outputs: list[str],
    keep: bool,
) -> bool:
    """Whether the engine is to round inputs itself."""
    if format_ == "torch_export":
        write_torch(ExportedNetwork(model), images, path, known)
        return False
    target = OPENVINO if format_ == "openvino" else ONNX
    with exportable(model, target, _size(images), keep) as network:
        if format_ == "onnx":
            write_onnx(network, images, path, known, outputs)
            return False
        rounds = any(getattr(module, "left_to_engine", False) for module in network.modules())
        write_openvino(network, images, path, known, outputs, rounds)
        return rounds


def _predictions(
    model: nn.Module, images: Tensor
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Ours, and with exact inputs where the scheme rounds them."""

    def predict(network: nn.Module) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in network(images).items()}

    with torch.inference_mode():
        ours = predict(ExportedNetwork(model))
        rounds = any(isinstance(m, QuantLinear) and m.activations.mode != "none" for m in model.modules())
        if not rounds:
            return ours, None
        try:
            with exportable(model, EXACT_INPUTS, _size(images)) as network:
                return ours, predict(network)
        except ExportError:  # of numbers that only our own kernels know, and format=torch_export keeps
            return ours, ours


def _predicted_by_engine(file: Path, images: Tensor) -> tuple[str, dict[str, np.ndarray]]:
    """Name and version of the engine, and its outputs. It has a process of its own, so that its memory does not add to ours."""
    with EngineProcess(file.parent) as process:
        opened = process.open(file, torch.get_num_threads())
        outputs = {name: value.numpy() for name, value in process.predict(images).items()}
    return f"{opened['engine']} {opened['version']}", outputs


def _rounds_weights(model: nn.Module) -> bool:
    """Whether our own products take fewer bits of the weights than the file has."""
    layers = (module for module in model.modules() if isinstance(module, NativeLinear))
    return any(layer.product_bits < layer.spec.bits for layer in layers)


def _size(images: Tensor) -> tuple[int, int]:
    return (images.shape[-2], images.shape[-1])


def _check_disk(model: nn.Module, path: Path) -> None:
    needed = LEAST_FREE * sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    folder = next(place for place in (path.parent, *path.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFull(
            f"{path}: an export needs about {needed / 2**20:.0f} MiB on the way, {free / 2**20:.0f} MiB are free; free some "
            "space or choose another place"
        )
