"""Networks: how much of a layer's gain is left beside everything else, in one transformer block and in whole models.

The block has VGGT-1B's width. Of a whole model, heads included, the depth maps' error stands for all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from vggtq.bench.alternatives import TOOLS, Tool, candidate_of, compiled, quantized_by
from vggtq.bench.exported import exported_candidates
from vggtq.bench.openvino import openvino_candidates
from vggtq.bench.rows import BF16, FP32, Candidate, Missing, Row, rows_of
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.engines.network import fixed_positions
from vggtq.machine.device import has_bf16
from vggtq.machine.memory import release_free_memory
from vggtq.models.loading import LoadedModel, bfloat16_twin, share_parameters
from vggtq.models.vggt.positions import rope_table
from vggtq.models.vggt.vit import Block
from vggtq.network.native_attention import int8_problem
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import resident_bytes

DIM, HEADS, SPECIAL = 1024, 16, 5
GRID = (25, 37)  # patches of a 350 × 518 frame; with the special tokens 930
FRAMES = (1, 5)  # 930 tokens as a frame block sees them, 4650 as a global block of five frames
SECONDS = 12.0  # per number of tokens

INT4 = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
PROGRESSIVE = Weights(bits=4, granularity="group", group_size=64, scale_dtype="progressive")
SCHEMES = (
    Scheme("W8A8", Weights(), activations=Activations("dynamic")),
    Scheme("W8A8, attention INT8", Weights(), activations=Activations("dynamic"), attention="int8"),
    Scheme("W4A8 group 64", INT4, activations=Activations("dynamic")),
    Scheme("W4A8 group 64 progressive", PROGRESSIVE, activations=Activations("dynamic")),
    Scheme("W4A8 group 64, attention INT8", INT4, activations=Activations("dynamic"), attention="int8"),
    Scheme("FP16 weights", Weights("float16", 16, granularity="none")),
    Scheme("INT8 weights", Weights()),
    Scheme("INT4 group 64", INT4),
    Scheme("INT8 weights, computed in BF16", Weights(), compute="bfloat16"),
    Scheme("INT4 group 64, computed in BF16", INT4, compute="bfloat16"),
)
ALL_LAYERS = Layers(types=["Linear", "MultiheadAttention", "Conv2d", "ConvTranspose2d"])
MODEL_SCHEMES = (
    *SCHEMES,
    *(
        Scheme(name, Weights(), activations=Activations("dynamic"), layers=ALL_LAYERS, attention=attention)
        for name, attention in (
            ("W8A8, convolutions too", "float32"),
            ("W8A8, convolutions too, attention INT8", "int8"),
        )
    ),
)
EXPORTED = tuple(scheme for scheme in SCHEMES if scheme.name in ("W8A8", "INT4 group 64"))
THREADED = "W8A8, attention INT8"
Run = Callable[[nn.Module], Tensor]
"""Runs a network, or a quantized twin of it, on the inputs of the case."""


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


def block_rows(device: torch.device) -> Iterator[list[Row]]:
    """One list of rows per number of tokens."""
    for frames in FRAMES:
        block, x, rope = block_of(frames, device)

        def run(module: nn.Module, x: Tensor = x, rope: tuple[Tensor, Tensor] = rope) -> Tensor:
            return module(x, rope)

        case = {"section": "block", "case": f"block, {x.shape[1]} tokens", "tokens": x.shape[1]}
        case["float32_bytes"] = sum(4 * p.numel() for p in block.parameters())
        found: list[Candidate | Missing] = list(_references(block, run, device))
        if has_bf16(device):
            call = partial(_autocast, device, run, compiled(bfloat16_twin(block)))
            found.append(Candidate("torch.compile BF16", call, "inductor", None, tool="torch"))
        found += [*_quantized(block, run, SCHEMES, first_last=()), *_alternatives(block, run, TOOLS)]
        found += [*_one_thread(found), *_by_openvino(block, run, x)]
        yield rows_of(case, found, SECONDS, device, base=x)


def block_of(frames: int, device: torch.device) -> tuple[Block, Tensor, tuple[Tensor, Tensor]]:
    """A block with random weights, its input (1, tokens, DIM) and the rotary table; the same every time."""
    torch.manual_seed(0)
    # LayerScale 1: VGGT's own 0.01 would hide the branches, and with them all errors, behind the residual.
    block = Block(DIM, HEADS, mlp_ratio=4, scale=1.0, qk_norm=True).eval().requires_grad_(False).to(device)
    cos, sin = rope_table(GRID, SPECIAL, DIM // HEADS, 100.0, device)
    rope = (cos.repeat(frames, 1), sin.repeat(frames, 1))
    return block, torch.randn(1, len(rope[0]), DIM).to(device), rope


def model_rows(device: torch.device, cases: tuple[Case, ...] = CASES) -> Iterator[list[Row]]:
    """One list of rows per model."""
    for case in cases:
        size = f"[{case.size},{case.size}]"
        options = [*case.overrides, "dataset=rooms", "scenes=1", f"frames={case.frames}", f"size={size}"]
        config = validated(compose(options))
        model = config.model.load(device)
        (scene,) = config.dataset.scenes()
        images = scene.images.to(device)[None]

        def run(module: nn.Module, images: Tensor = images) -> Tensor:
            return module(images)["depth"]

        shared: Row = {"section": "model", "case": f"{case.name}, {case.frames} × {case.size}²"}
        shared |= {"frames": case.frames, "size": [case.size, case.size], "weights": model.weights.kind}
        shared["float32_bytes"] = 4 * sum(p.numel() for p in model.module.parameters())
        references = list(_references(model.module, run, device))
        found = chain(_quantized(model.module, run, MODEL_SCHEMES), _engines(model, images))
        if not case.everything:
            for candidate in found:
                yield rows_of(shared, [*references, candidate], case.seconds, device)
                del candidate  # before the next one takes memory
                release_free_memory()
            continue
        tools = [tool for tool in TOOLS if not tool.compiled]  # a whole model takes minutes to compile
        found = chain(references, found, _alternatives(model.module, run, tools))
        yield rows_of(shared, list(found), case.seconds, device)


def _references(module: nn.Module, run: Run, device: torch.device) -> Iterator[Candidate]:
    yield Candidate(FP32, partial(run, module), "F.linear", resident_bytes(module), tool="torch")
    if has_bf16(device):
        half = bfloat16_twin(module, heads=True)
        call = partial(_autocast, device, run, half)
        yield Candidate(BF16, call, "autocast", resident_bytes(half), tool="torch")


def _quantized(
    module: nn.Module, run: Run, schemes: Sequence[Scheme], first_last: Sequence[str] | None = None
) -> Iterator[Candidate | Missing]:
    """vggtq's own; `backend` names every backend that runs in the network."""
    problem = int8_problem(next(module.parameters()).device)
    for scheme in schemes:
        if scheme.attention == "int8" and problem:
            yield Missing(scheme.name, "vggtq", problem)
            continue
        if scheme.compute == "bfloat16" and not has_bf16(next(module.parameters()).device):
            continue  # emulated, so slow that nobody would take it
        twin = share_parameters(module)
        layers = quantize_(twin, scheme, first_last).layers
        backends = ", ".join(sorted({layer.backend for layer in layers}))
        simulated = any(layer.simulated for layer in layers)
        yield Candidate(scheme.name, partial(run, twin), backends, resident_bytes(twin), simulated)


def _alternatives(module: nn.Module, run: Run, tools: Sequence[Tool]) -> Iterator[Candidate | Missing]:
    """Other tools quantize every linear layer, output layers too."""
    for tool in tools:
        twin = quantized_by(tool, module)
        yield twin if isinstance(twin, Missing) else candidate_of(tool, twin, partial(run, twin))


def _one_thread(found: Sequence[Candidate | Missing]) -> Iterator[Candidate]:
    """The fastest of vggtq's own on one thread: how its threads scale is the ratio of both rows."""
    threads = torch.get_num_threads()
    for own in found:
        if threads > 1 and own.name == THREADED and isinstance(own, Candidate):
            call = partial(_on_one_thread, own.call, threads)
            yield replace(own, name=f"{own.name}, one thread", call=call)


def _on_one_thread(call: Callable[[], Tensor], threads: int) -> Tensor:
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


def _engines(model: LoadedModel, images: Tensor) -> Iterator[Candidate | Missing]:
    """The model as OpenVINO converts it, and files with our codes in OpenVINO and in ONNX Runtime. On CPUs alone."""
    candidates = _by_openvino(model.module, _depth_and_others, images)
    with fixed_positions(model.module, (images.shape[-2], images.shape[-1])):
        converted = next(candidates, None)  # all are made of the graph that the first one is made of
    yield from chain(filter(None, [converted]), candidates)
    if images.device.type == "cpu":
        yield from exported_candidates(model, images[0], EXPORTED)


Bind = Callable[[nn.Module, Tensor], Tensor | tuple[Tensor, ...]]
"""Runs a network on x, with all its other inputs bound."""


def _depth_and_others(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Depth first, then the rest: a compiler leaves out the heads whose outputs are not used."""
    outputs = network(images)
    others = (value for name, value in outputs.items() if name not in ("depth", "images"))
    return outputs["depth"], *(value for value in others if isinstance(value, Tensor))


class _Bound(nn.Module):
    """A network of x alone."""

    def __init__(self, network: nn.Module, run: Bind) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.run(self.network, x)


def _by_openvino(network: nn.Module, run: Bind, x: Tensor) -> Iterator[Candidate | Missing]:
    """On CPUs alone."""
    if x.device.type == "cpu":
        yield from openvino_candidates(_Bound(network, run).eval(), x)


def _autocast(device: torch.device, run: Run, module: nn.Module) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16):
        return run(module)
