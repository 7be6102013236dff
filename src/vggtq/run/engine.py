"""The quantized model of a run in another engine: exported, loaded in a process of its own, predicted and timed there."""

import logging
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.config.schema import Config, Timing
from vggtq.engines.described import described
from vggtq.engines.exporting import SUFFIXES, ExportedFile, export_network
from vggtq.engines.process import EngineProcess
from vggtq.errors import ConfigError, ExportError
from vggtq.files.atomic import temporary_folder
from vggtq.machine.device import has_bf16
from vggtq.machine.timing import PairedLatency, paired_latency
from vggtq.prepare.quantized import Quantized
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.computing import leave_to_engine_, resolved_compute
from vggtq.records.of_run import EngineEntry

log = logging.getLogger(__name__)

TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}
FLOAT32 = Scheme("fp32", Weights("float32", 32, granularity="none"))
LEAST_FRAMES = 2  # a graph for any number of frames is traced with more than one


class EngineRun:
    """The exported model for images of the size of the first scene. Raises ExportError, ConfigError for a GPU."""

    def __init__(
        self, config: Config, quantized: Quantized, images: Tensor, device: torch.device, folder: Path
    ) -> None:
        if device.type != "cpu":
            raise ConfigError(f"engine={config.engine.name} is measured on the CPU; use device=cpu")
        self.title, self._name = TITLES[config.engine.name], config.engine.name
        self._images, self._threads = images, torch.get_num_threads()
        self._multiplies_bf16 = self._name == "openvino" and has_bf16(device)
        wanted = resolved_compute(config.scheme, device)
        self._precision = wanted if self._multiplies_bf16 else "float32"
        if config.scheme.compute == "bfloat16" != self._precision:
            log.warning("%s multiplies floats in float32: it has no products in bfloat16 here", self.title)
        self._float_precision, self._folder, self._cleanup = "float32", folder, ExitStack()
        self._about = (config.scheme, quantized.weights, config.model.identity(), config.rest)
        with ExitStack() as opened:  # closed again where something fails on the way
            place = opened.enter_context(temporary_folder(folder))
            leave_to_engine_(quantized.module, config.scheme, FORMATS[self._name])
            self._file = self._exported(quantized.module, place / "model", described(*self._about))
            log.info("%s  %.1f MiB", self.title, self._file.file_bytes / 2**20)
            self._process = opened.enter_context(EngineProcess(folder))
            self._opened = self._process.open(self._file.path, self._threads, self._precision)
            self._check_threads(self._opened)
            self._cleanup = opened.pop_all()

    def _exported(self, module: nn.Module, stem: Path, metadata: dict[str, str]) -> ExportedFile:
        kind, images = FORMATS[self._name], self._images
        if len(images) < LEAST_FRAMES:
            images = torch.cat([images] * LEAST_FRAMES)
        return export_network(module, kind, stem.with_suffix(SUFFIXES[kind]), images, metadata)

    def _check_threads(self, opened: dict[str, Any]) -> None:
        if opened["threads"] != self._threads:
            raise ExportError(
                f"{self.title} uses {opened['threads']} threads and not the {self._threads} that it was asked for; "
                f"set device.threads={opened['threads']}"
            )

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs for images (S, 3, H, W), float32 on the CPU."""
        return self._process.predict(images)

    def take(self, images: Tensor) -> None:
        """Sets the images that `run` predicts from now on."""
        self._process.take(images)

    def run(self) -> None:
        """One prediction whose outputs are thrown away."""
        self._process.run()

    def against_float(self, module: nn.Module, timing: Timing) -> PairedLatency:
        """Pairs with the float network in this engine, in the fastest precision that it and this CPU have."""
        self._float_precision = "bfloat16" if self._multiplies_bf16 else "float32"
        about = described(FLOAT32, *self._about[1:])
        with temporary_folder(self._folder) as place, EngineProcess(self._folder) as other:
            file = self._exported(module, place / "float", about)
            self._check_threads(other.open(file.path, self._threads, self._float_precision))
            other.take(self._images)
            entry = paired_latency(other.run, self.run, timing.rounds, timing.warmup, torch.device("cpu"))
        speed = (entry.speedup, self.title, self._float_precision, entry.speedup_q25, entry.speedup_q75)
        log.info("speed  %.2f × %s %s (quartiles %.2f to %.2f)", *speed)
        return entry

    def memory(self, images: Tensor) -> dict[str, Any]:
        """As `vggtq run peak_memory` prints it."""
        with EngineProcess(self._folder) as fresh:
            return fresh.measure(self._file.path, images, self._threads, self._precision)

    def entry(self) -> EngineEntry:
        """For the record."""
        self.take(self._images)
        ran = self._process.ask(ran=True)
        log.info("%s ran %s: %s", self.title, ran["arithmetic"], ran["ran"])
        return EngineEntry(
            name=self._name,
            version=self._opened["version"],
            file_bytes=self._file.file_bytes,
            threads=self._opened["threads"],
            ran=ran["ran"],
            arithmetic=ran["arithmetic"],
            precision=self._precision,
            float_precision=self._float_precision,
            parity={name: asdict(entry) for name, entry in self._file.parity.items()},
        )

    def __enter__(self) -> "EngineRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()
