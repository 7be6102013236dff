"""One transformer block of VGGT-1B's width: how much of a layer's gain is left beside attention, norms and GELU."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from vggtq.bench.alternatives import TOOLS, candidate_of, compiled, quantized_by
from vggtq.bench.rows import BF16, FP32, Candidate, Missing, Row, rows_of
from vggtq.environment import has_bf16
from vggtq.models.loading import share_parameters
from vggtq.models.positions import rope_table
from vggtq.models.vit import Block
from vggtq.quant.quantize import Quantization, quantize_
from vggtq.quant.scheme import Activations, Scheme, Weights
from vggtq.quant.size import resident_bytes

DIM, HEADS, SPECIAL = 1024, 16, 5
GRID = (25, 37)  # patches of a 350 × 518 frame; with the special tokens 930
FRAMES = (1, 5)  # 930 tokens as a frame block sees them, 4650 as a global block of five frames
SECONDS = 12.0  # per number of tokens

INT4 = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
SCHEMES = (
    Scheme("W8A8", Weights(), activations=Activations("dynamic")),
    Scheme("W8A8, attention FP16", Weights(), activations=Activations("dynamic"), attention="float16"),
    Scheme("W8A8, attention BF16", Weights(), activations=Activations("dynamic"), attention="bfloat16"),
    Scheme("FP16 weights", Weights("float16", 16, granularity="none")),
    Scheme("INT8 weights", Weights()),
    Scheme("INT4 group 64", INT4),
)


def block_rows(device: torch.device) -> Iterator[list[Row]]:
    """One list of rows per number of tokens."""
    for frames in FRAMES:
        block, x, rope = case_of(frames, device)
        case = {"section": "block", "case": f"block, {x.shape[1]} tokens", "tokens": x.shape[1]}
        case["float32_bytes"] = sum(4 * p.numel() for p in block.parameters())
        yield rows_of(case, _candidates(block, x, rope), SECONDS, device, base=x)


def case_of(frames: int, device: torch.device) -> tuple[Block, Tensor, tuple[Tensor, Tensor]]:
    """A block with random weights, its input (1, tokens, DIM) and the rotary table; the same every time."""
    torch.manual_seed(0)
    # LayerScale 1: VGGT's own 0.01 would hide the branches, and with them all errors, behind the residual.
    block = Block(DIM, HEADS, mlp_ratio=4, scale=1.0, qk_norm=True).eval().requires_grad_(False).to(device)
    cos, sin = rope_table(GRID, SPECIAL, DIM // HEADS, 100.0, device)
    rope = (cos.repeat(frames, 1), sin.repeat(frames, 1))
    return block, torch.randn(1, len(rope[0]), DIM).to(device), rope


def _candidates(block: Block, x: Tensor, rope: tuple[Tensor, Tensor]) -> list[Candidate | Missing]:
    def call(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: module(x, rope)

    found: list[Candidate | Missing] = [
        Candidate(FP32, call(block), "F.linear", resident_bytes(block), tool="torch")
    ]
    if has_bf16(x.device):
        half = share_parameters(block)
        half_linears_(half)
        found.append(
            Candidate(BF16, lambda: _autocast(half, x, rope), "autocast", resident_bytes(half), tool="torch")
        )
        fused = compiled(half)
        found.append(
            Candidate("torch.compile BF16", lambda: _autocast(fused, x, rope), "inductor", None, tool="torch")
        )
    for scheme in SCHEMES:
        twin = share_parameters(block)
        done = quantize_(twin, scheme, first_last=())
        found.append(own_candidate(scheme.name, call(twin), twin, done))
    for tool in TOOLS:
        module = quantized_by(tool, block)
        found.append(module if isinstance(module, Missing) else candidate_of(tool, module, call(module)))
    return found


def own_candidate(
    name: str, call: Callable[[], Tensor], module: nn.Module, quantization: Quantization
) -> Candidate:
    """A row of vggtq's own; `backend` names every backend that runs in the module."""
    backends = sorted({layer.backend for layer in quantization.layers})
    simulated = any(layer.simulated for layer in quantization.layers)
    return Candidate(name, call, ", ".join(backends), resident_bytes(module), simulated)


def half_linears_(module: nn.Module) -> None:
    """Converts the weights of linears to BF16 once, which autocast would do in every call."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            for name, parameter in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))


def _autocast(module: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16):
        output: Tensor = module(x, rope)
    return output
