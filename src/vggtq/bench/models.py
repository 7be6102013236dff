"""Whole models, heads included: what is left of a kernel's gain when everything else has run too."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggtq.bench.alternatives import TOOLS, candidate_of, quantized_by
from vggtq.bench.blocks import SCHEMES, own_candidate
from vggtq.bench.rows import BF16, FP32, Candidate, Missing, Row, rows_of
from vggtq.config import compose, validated
from vggtq.environment import has_bf16
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.quant.quantize import quantize_
from vggtq.quant.size import resident_bytes


@dataclass(frozen=True)
class Case:
    """A model as the command line names it, and the rooms that it looks at."""

    name: str
    overrides: tuple[str, ...]
    frames: int
    size: int  # pixels, square
    seconds: float
    everything: bool = True  # other tools too, all in turn; else one candidate beside FP32 and BF16 at a time


CASES = (
    Case("vggt_mini", ("model=vggt_mini",), 4, 84, 8),
    Case("vggt_small", ("model=vggt_small",), 4, 224, 12),
)
# Random weights are as fast as trained ones. All candidates at once would not fit into 16 GB.
FULL_CASES = (
    *CASES,
    Case("vggt_1b", ("model=vggt_1b", "model.source=null"), 2, 224, 60, everything=False),
)


def model_rows(device: torch.device, cases: tuple[Case, ...] = CASES) -> Iterator[list[Row]]:
    """One list of rows per model."""
    for case in cases:
        size = f"[{case.size},{case.size}]"
        options = [*case.overrides, "dataset=rooms", "scenes=1", f"frames={case.frames}", f"size={size}"]
        config = validated(compose(options))
        model = config.model.load(device)
        (scene,) = config.dataset.scenes()
        images = scene.images.to(device)[None]
        shared: Row = {"section": "model", "case": f"{case.name}, {case.frames} × {case.size}²"}
        shared |= {"frames": case.frames, "size": [case.size, case.size], "weights": model.weights.kind}
        shared["float32_bytes"] = 4 * sum(p.numel() for p in model.module.parameters())
        for candidates in _groups(model, images, case):
            yield rows_of(shared, candidates, case.seconds, device)


def _groups(model: LoadedModel, images: Tensor, case: Case) -> Iterator[list[Candidate | Missing]]:
    references = list(_references(model, images))
    if case.everything:
        yield [*references, *_quantized(model, images), *_alternatives(model, images)]
        return
    for candidate in _quantized(model, images):
        yield [*references, candidate]


def _references(model: LoadedModel, images: Tensor) -> Iterator[Candidate]:
    module = model.module
    yield Candidate(FP32, _call(module, images), "F.linear", resident_bytes(module), tool="torch")
    if has_bf16(images.device):
        half = model.bfloat16_twin()
        yield Candidate(BF16, _call(half, images, True), "autocast", resident_bytes(half), tool="torch")


def _quantized(model: LoadedModel, images: Tensor) -> Iterator[Candidate]:
    for scheme in SCHEMES:
        twin = share_parameters(model.module)
        yield own_candidate(scheme.name, _call(twin, images), twin, quantize_(twin, scheme))


def _alternatives(model: LoadedModel, images: Tensor) -> Iterator[Candidate | Missing]:
    """Other tools quantize every linear layer, output layers too."""
    for tool in (tool for tool in TOOLS if not tool.compiled):  # a whole model takes minutes to compile
        module = quantized_by(tool, model.module)
        yield module if isinstance(module, Missing) else candidate_of(tool, module, _call(module, images))


def _call(module: nn.Module, images: Tensor, bf16: bool = False) -> Callable[[], Tensor]:
    """Predicts; returns the depth maps, whose error stands for the model's."""

    def call() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            depth: Tensor = module(images)["depth"]
        return depth

    return call
