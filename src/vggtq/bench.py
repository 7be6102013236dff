"""`python -m vggtq.bench`: every linear backend of this machine against FP32 `F.linear`, in pairs, in one process.

Prints ratios (above 1: faster than FP32), the error against FP32, and resident bytes; writes `outputs/bench/bench.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vggtq.config import Device
from vggtq.environment import environment, resolve_device
from vggtq.measure import paired_latency
from vggtq.progress import Steps
from vggtq.quant.backends import quantized_linear
from vggtq.quant.packed import pack_weight
from vggtq.quant.scheme import Activations, Weights
from vggtq.record import jsonable

# Tokens of one and of five 518 × 350 frames through VGGT-1B's linears, and vggt_small's.
SHAPES = [
    (tokens, i, o)
    for tokens in (930, 4650)
    for i, o in ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))
]
SHAPES += [(300, 256, 1024), (300, 1024, 256)]
ROUNDS = 9

SCHEMES: dict[str, tuple[Weights, Activations]] = {
    "W8A8 per-tensor": (Weights(granularity="per_tensor"), Activations("dynamic")),
    "W8A8 per-channel": (Weights(), Activations("dynamic")),
    "W8A8 asymmetric": (Weights(symmetric=False), Activations("dynamic")),
    "FP16 weights": (Weights("float16", 16, granularity="none"), Activations()),
    "INT8 weights": (Weights(), Activations()),
    "INT4 group 64": (
        Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16"),
        Activations(),
    ),
}


def measure(tokens: int, inputs: int, outputs: int, name: str, device: torch.device) -> dict[str, Any]:
    """One scheme at one shape against FP32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, inputs, generator=generator).to(device)
    weight = (torch.randn(outputs, inputs, generator=generator) / inputs**0.5).to(device)
    bias = nn.Parameter(torch.randn(outputs, generator=generator).to(device), requires_grad=False)
    weights, activations = SCHEMES[name]
    layer = quantized_linear(pack_weight(weight, weights), bias, activations)
    with torch.inference_mode():
        exact = F.linear(x, weight, bias)
        error = float((layer(x) - exact).norm() / exact.norm())
        latency = paired_latency(lambda: F.linear(x, weight, bias), lambda: layer(x), ROUNDS, 2, device)
    shape = {"tokens": tokens, "inputs": inputs, "outputs": outputs}
    facts = {"backend": layer.backend, "simulated": layer.simulated, "activation_bits": layer.activation_bits}
    sizes = {"resident_bytes": layer.resident_bytes(), "float32_bytes": 4 * (weight.numel() + outputs)}
    return {"scheme": name} | shape | facts | sizes | {"relative_error": error} | latency


def main() -> None:
    """Measures all shapes and schemes; about two minutes on two cores."""
    if len(sys.argv) > 1:
        sys.exit(f"error: {' '.join(sys.argv[1:])}: the benchmark takes no arguments")
    device = resolve_device(Device())
    rows = []
    with Steps() as steps:
        steps.step("benchmark", len(SHAPES) * len(SCHEMES))
        for shape in SHAPES:
            for name in SCHEMES:
                rows.append(measure(*shape, name, device))
                steps.advance()
    env = environment(device, seed=0)
    out = Path("outputs/bench/bench.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(jsonable({"environment": env, "rows": rows}), indent=1))
    temporary.replace(out)
    _print(rows, env, out)


def _print(rows: list[dict[str, Any]], env: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{env['gpu'] or env['cpu']} ({env['cpu_capability']}), {env['threads']} threads, torch {env['versions']['torch']}"
    table = Table(
        title=title, caption="median of paired ratios against FP32 F.linear (quartiles); above 1 is faster"
    )
    for heading in ("tokens × in → out", "scheme", "backend", "ratio", "error", "bytes"):
        table.add_column(heading, justify="left" if heading in ("scheme", "backend") else "right")
    for row in rows:
        ratio = f"{row['speedup']:.2f} ({row['speedup_q25']:.2f} to {row['speedup_q75']:.2f})"
        backend = row["backend"] + (" (simulated)" if row["simulated"] else "")
        shape = f"{row['tokens']} × {row['inputs']} → {row['outputs']}"
        share = f"1/{row['float32_bytes'] / row['resident_bytes']:.1f}"
        table.add_row(shape, row["scheme"], backend, ratio, f"{row['relative_error']:.4f}", share)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(out)


if __name__ == "__main__":
    main()
