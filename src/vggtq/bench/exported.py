"""Our exported files in other engines, on a whole model: the same codes as our own rows. Installed by `onnx`, `openvino`."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vggtq.bench.rows import Candidate, Missing, reason_of
from vggtq.engines.described import described
from vggtq.engines.exporting import SUFFIXES, check_format, export_network
from vggtq.engines.sessions import arithmetic, open_session
from vggtq.errors import MissingExtraError, VggtqError
from vggtq.machine.device import has_bf16
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.computing import leave_to_engine_
from vggtq.quant.walk.quantize import quantize_

FLOAT = Scheme("FP32", Weights("float32", 32, granularity="none"))


@dataclass(frozen=True)
class Target:
    """An engine, by the format of its files."""

    title: str
    format: str
    tool: str
    float_too: bool  # whether FP32 is exported; `vggtq.bench.openvino` converts it itself
    multiplies_bf16: bool  # where the CPU does


TARGETS = (
    Target("ONNX Runtime", "onnx", "onnxruntime", float_too=True, multiplies_bf16=False),
    Target("OpenVINO", "openvino", "openvino", float_too=False, multiplies_bf16=True),
)


def exported_candidates(
    model: LoadedModel, images: Tensor, schemes: tuple[Scheme, ...]
) -> Iterator[Candidate | Missing]:
    """Depth, by each engine from a file with our codes. images: (S, 3, H, W) on the CPU, S > 1.

    An export that computes something else than we do is no candidate: its row says so.
    """
    for target in TARGETS:
        for scheme in (FLOAT, *schemes) if target.float_too else schemes:
            name = f"{scheme.name} in {target.title}"
            try:
                yield _candidate(name, target, scheme, model, images)
            except MissingExtraError:
                yield Missing(name, target.tool, f"not installed: pip install 'vggtq[{target.format}]'")
            except VggtqError as error:
                yield Missing(name, target.tool, reason_of(error))


def _candidate(name: str, target: Target, scheme: Scheme, model: LoadedModel, images: Tensor) -> Candidate:
    folder = (
        tempfile.TemporaryDirectory()
    )  # for as long as the candidate lives: engines map weights into memory
    path = Path(folder.name, "model").with_suffix(SUFFIXES[target.format])
    check_format(target.format, path)
    twin = _twin(model.module, scheme)
    leave_to_engine_(twin, scheme, target.format)
    file = export_network(twin, target.format, path, images, _about(scheme, model))
    precision = "bfloat16" if target.multiplies_bf16 and has_bf16(images.device) else "float32"
    session = open_session(path, torch.get_num_threads(), precision)
    pixels = images.numpy()
    how = f"{arithmetic(session.ran(pixels))}, else {precision}" if scheme is not FLOAT else precision
    backend = f"{target.title} {session.version}, {file.file_bytes / 2**20:.0f} MiB file, {how}"

    def call() -> Tensor:
        assert folder
        return torch.from_numpy(session.predict(pixels)["depth"])

    return Candidate(name, call, backend, None, tool=target.tool)


def _twin(module: nn.Module, scheme: Scheme) -> nn.Module:
    twin = share_parameters(module)
    if scheme is not FLOAT:
        quantize_(twin, scheme)
    return twin


def _about(scheme: Scheme, model: LoadedModel) -> dict[str, str]:
    return described(scheme, model.weights, None, "float32")
