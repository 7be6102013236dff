"""`vggtq bench cuda`: quantized linears and whole VGGT-1B on a GPU against BF16, in pairs, as CUDA graphs."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.bench.cuda.model import MODES, model_rows
from vggtq.bench.cuda.timing import captured, paired
from vggtq.errors import VggtqError
from vggtq.files.atomic import write_text
from vggtq.machine.environment import environment
from vggtq.quant.kernels.cuda.triton_layers import PackedWeightLinear
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.table import quantized_linear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.records.plain import plain
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option

PARTS = ("shapes", "rows", "model")
INT4 = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
SCHEMES = {
    "int8_dynamic": Scheme("int8_dynamic", Weights(), Activations("dynamic")),
    "fp8": Scheme("fp8", Weights("float8_e4m3"), Activations("dynamic", 8, "float8_e4m3")),
    "int8_symmetric": Scheme("int8_symmetric", Weights()),
    "int4_group": Scheme("int4_group", INT4),
}
# Inputs and outputs of VGGT-1B's blocks; tokens of the camera head, and of 1, 5 and 10 frames of 518 × 350.
LINEARS = ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))
SHAPES = [(10, 2048, 8192), *((tokens, i, o) for tokens in (930, 4650, 9300) for i, o in LINEARS)]
FEW_ROWS = (1, 8, 16, 32, 64, 128, 256)
CACHE_BYTES = 150_000_000  # more than twice the second-level cache of an H200
MOST_COPIES = 32


@dataclass
class Options:
    """The parts to measure, the settings of the measurement, and the file to write."""

    parts: list[str] = option(
        "shapes: every scheme's linear at VGGT-1B's shapes; rows: packed weights straight from the codes against dequantizing "
        "them first, for few rows; model: random weights end to end",
        list(PARTS),
        choices=PARTS,
    )
    schemes: list[str] = option("schemes to measure", list(SCHEMES), choices=tuple(SCHEMES))
    frames: list[int] = option("frames that the whole model sees", [5, 10], least=1)
    modes: list[str] = option("how the whole model runs", list(MODES), choices=MODES)
    rounds: int = option("pairs per comparison", 15, least=1)
    out: str = option("JSON, written after every entry", "outputs/bench/bench_cuda.json")


COMMAND = Command(
    "bench cuda",
    Options,
    ("", "parts=model schemes=fp8,int8_dynamic frames=5"),
    "Needs an NVIDIA GPU; for the CPU: vggtq bench.",
    wrong_usage=2,
)


def _software() -> dict[str, Any]:
    """Versions that matter on a GPU beside those of every record."""
    return {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "triton": version("triton")}


def _work(options: Options) -> None:
    if not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds none"
        raise VggtqError(f"this benchmark needs an NVIDIA GPU, and {why}; for the CPU use vggtq bench")
    device = torch.device("cuda", torch.cuda.current_device())
    torch.backends.cudnn.benchmark = True  # the fastest convolutions, for both sides
    report: dict[str, Any] = {"environment": vars(environment(device, seed=0)) | _software()}
    for part in options.parts:
        report[part] = []
        for row in _rows(part, options, device):
            report[part].append(row)
            print(_line(part, row), flush=True)
            write_text(Path(options.out), json.dumps(plain(report), indent=1))
    print(options.out)


def _rows(part: str, chosen: Options, device: torch.device) -> Iterator[dict[str, Any]]:
    schemes = {name: SCHEMES[name] for name in chosen.schemes}
    if part == "model":
        yield from model_rows(schemes, chosen.frames, chosen.modes, chosen.rounds, device)
    elif part == "rows":
        for tokens in FEW_ROWS:
            yield few_rows_row(tokens, chosen.rounds, device)
    else:
        for shape in SHAPES:
            for name, scheme in schemes.items():
                yield shape_row(shape, name, scheme, chosen.rounds, device)


def shape_row(
    shape: tuple[int, int, int], name: str, scheme: Scheme, rounds: int, device: torch.device
) -> dict[str, Any]:
    """One scheme's linear at (tokens, inputs, outputs) against BF16's; errors are against float32."""
    tokens, inputs, outputs = shape
    cases = [
        _case(shape, scheme, seed, device)
        for seed in range(_copies(2 * (tokens * (inputs + outputs) + inputs * outputs)))
    ]
    x, half_weight, layer = cases[0]
    weight, bias = _weight(inputs, outputs, 0, device)
    with torch.no_grad():
        exact = F.linear(x.float(), weight, bias)
        half = F.linear(x, half_weight, layer.bias)
        errors = {k: float((y - exact).norm() / exact.norm()) for k, y in (("bf16", half), (name, layer(x)))}
        plain = captured(_each(cases, lambda x, weight, layer: F.linear(x, weight, layer.bias)))
        quantized = captured(_each(cases, lambda x, weight, layer: layer(x)))
    facts = {"backend": layer.backend, "simulated": layer.simulated, "resident_bytes": layer.resident_bytes()}
    sizes = {"scheme": name, "tokens": tokens, "inputs": inputs, "outputs": outputs, "copies": len(cases)}
    return sizes | facts | {"relative_errors": errors} | paired(plain, quantized, rounds)


def few_rows_row(tokens: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """INT4, 1024 → 4096: dequantizing first is the reference, the product from the codes the candidate."""
    inputs, outputs = 1024, 4096
    cases = [
        _case((tokens, inputs, outputs), SCHEMES["int4_group"], seed, device) for seed in range(MOST_COPIES)
    ]
    layers = [layer for _, _, layer in cases]
    assert all(isinstance(layer, PackedWeightLinear) for layer in layers), "packed weights need Triton"
    with torch.no_grad():
        many = captured(_each(cases, lambda x, weight, layer: layer.many_rows(x)))
        few = captured(_each(cases, lambda x, weight, layer: layer.few_rows(x)))
    return {"tokens": tokens, "inputs": inputs, "outputs": outputs} | paired(many, few, rounds)


Case = tuple[Tensor, Tensor, QuantLinear]


def _case(shape: tuple[int, int, int], scheme: Scheme, seed: int, device: torch.device) -> Case:
    """Input and weight in bfloat16, and the layer of a weight that is rounded from float32, its bias in bfloat16."""
    tokens, inputs, outputs = shape
    weight, bias = _weight(inputs, outputs, seed, device)
    layer = quantized_linear(
        pack_weight(weight, scheme.weights), nn.Parameter(bias, False), scheme.activations
    )
    x = torch.randn(tokens, inputs, generator=torch.Generator(device).manual_seed(seed), device=device)
    return x.bfloat16(), weight.bfloat16(), layer.to(torch.bfloat16)


def _weight(inputs: int, outputs: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(outputs, inputs) and (outputs,), float32."""
    generator = torch.Generator(device).manual_seed(1000 + seed)
    weight = torch.randn(outputs, inputs, generator=generator, device=device) / math.sqrt(inputs)
    return weight, torch.randn(outputs, generator=generator, device=device)


def _copies(case_bytes: int) -> int:
    """So many inputs and weights that none is still in the cache when its turn comes again; at least 4."""
    return min(MOST_COPIES, max(4, -(-CACHE_BYTES // case_bytes)))


def _each(cases: list[Case], call: Callable[..., Tensor]) -> Callable[[], list[Tensor]]:
    return lambda: [call(*case) for case in cases]


def _line(part: str, row: dict[str, Any]) -> str:
    """One result, for the person waiting."""
    if "error" in row:
        return f"{row['frames']} frames  {row['scheme']} {row['mode']}: failed, {row['error']}"
    if "speedup" not in row:
        return f"{row['frames']} frames  {row['scheme']} {row['mode']}: {row['median_ms']:.2f} ms"
    ratio = f"{row['speedup']:.2f} × ({row['speedup_q25']:.2f} to {row['speedup_q75']:.2f})"
    if part == "rows":
        return f"{row['tokens']} rows: codes against dequantizing first {ratio}"
    if part == "model":
        memory = row["peak_bytes"] / row["reference_peak_bytes"]
        return f"{row['frames']} frames  {row['scheme']} {row['mode']}: {ratio}, peak memory {memory:.2f} ×"
    shape = f"{row['tokens']} × {row['inputs']} → {row['outputs']}"
    return f"{shape}  {row['scheme']} ({row['backend']}): {ratio}"


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
