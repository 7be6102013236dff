"""Single linear layers: every kernel of vggtq and of other tools against FP32 `F.linear`, shape by shape."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.bench.alternatives import linear_alternatives
from vggtq.bench.rows import BF16, FP32, Candidate, Missing, Row, rows_of
from vggtq.machine.device import has_bf16
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.table import quantized_linear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

# Tokens of one and of five 518 × 350 frames through VGGT-1B's linears, and a small model's.
LARGE = [
    (tokens, i, o)
    for tokens in (930, 4650)
    for i, o in ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))
]
SHAPES = [*LARGE, (300, 256, 1024), (300, 1024, 256)]
SECONDS = 5.0  # per shape

DYNAMIC, FLOAT = Activations("dynamic"), Activations()
PER_TENSOR, STATIC = Activations("dynamic", granularity="per_tensor"), Activations("static", symmetric=False)


def _int4(group_size: int, scale_dtype: str = "float16") -> Weights:
    return Weights(bits=4, granularity="group", group_size=group_size, scale_dtype=scale_dtype)


SCHEMES: dict[str, tuple[Weights, Activations]] = {
    "W8A8 per-tensor": (Weights(granularity="per_tensor"), DYNAMIC),
    "W8A8 per-channel": (Weights(), DYNAMIC),
    "W8A8 asymmetric": (Weights(symmetric=False), DYNAMIC),
    "W8A8, inputs per-tensor": (Weights(), PER_TENSOR),
    "W8A8, inputs static per-tensor": (Weights(), STATIC),
    "W4A8 per-channel": (Weights(bits=4), DYNAMIC),
    "W4A8 group 64": (_int4(64), DYNAMIC),
    "W4A8 group 64 progressive": (_int4(64, "progressive"), DYNAMIC),
    "FP16 weights": (Weights("float16", 16, granularity="none"), FLOAT),
    "INT8 per-tensor": (Weights(granularity="per_tensor"), FLOAT),
    "INT8 per-channel": (Weights(), FLOAT),
    "INT8 asymmetric": (Weights(symmetric=False), FLOAT),
    "INT4 group 32": (_int4(32), FLOAT),
    "INT4 group 64": (_int4(64), FLOAT),
    "INT4 group 128": (_int4(128), FLOAT),
}


def kernel_rows(
    device: torch.device, shapes: list[tuple[int, int, int]] = SHAPES, full: bool = False
) -> Iterator[list[Row]]:
    """One list of rows per shape; with `full` also what has to be compiled first."""
    for tokens, inputs, outputs in shapes:
        case: Row = {"section": "kernel", "case": f"{tokens} × {inputs} → {outputs}"}
        case |= {"tokens": tokens, "inputs": inputs, "outputs": outputs}
        x, linear = case_of(tokens, inputs, outputs, device)
        case["float32_bytes"] = 4 * (linear.weight.numel() + outputs)
        yield rows_of(case, _candidates(x, linear, device, full), SECONDS, device)


def case_of(tokens: int, inputs: int, outputs: int, device: torch.device) -> tuple[Tensor, nn.Linear]:
    """Gaussian input (tokens, inputs) and a linear with Gaussian weights of variance 1/inputs; the same every time."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(inputs, outputs).requires_grad_(False)
    linear.weight.normal_(0, inputs**-0.5, generator=generator)
    if linear.bias is not None:
        linear.bias.normal_(generator=generator)
    return torch.randn(tokens, inputs, generator=generator).to(device), linear.to(device)


def _candidates(x: Tensor, linear: nn.Linear, device: torch.device, full: bool) -> list[Candidate | Missing]:
    float_bytes = 4 * (linear.weight.numel() + linear.out_features)
    found: list[Candidate | Missing] = [
        Candidate(FP32, lambda: linear(x), "F.linear", float_bytes, tool="torch")
    ]
    if has_bf16(device):
        half = [t.to(torch.bfloat16) for t in (x, linear.weight, linear.bias)]
        # A BF16 model hands BF16 inputs on, so that converting them is no part of the product.
        found.append(Candidate(BF16, lambda: F.linear(*half), "F.linear", float_bytes // 2, tool="torch"))
    found += [_own(name, x, linear) for name in SCHEMES]
    found += [own for name in ("INT8 per-channel", "INT4 group 64") for own in _in_bfloat16(name, x, linear)]
    return found + linear_alternatives(x, linear, full)


def _in_bfloat16(name: str, x: Tensor, linear: nn.Linear) -> Iterator[Candidate]:
    """The same weights, where the native kernels multiply them in bfloat16."""
    layer = _layer(name, linear)
    if isinstance(layer, NativeLinear):
        layer.multiply_in("bfloat16")
        if layer.in_bfloat16:
            yield Candidate(
                f"{name}, computed in BF16", lambda: layer(x), layer.backend, layer.resident_bytes()
            )


def _layer(name: str, linear: nn.Linear) -> QuantLinear:
    weights, activations = SCHEMES[name]
    return quantized_linear(pack_weight(linear.weight, weights), linear.bias, activations)


def _own(name: str, x: Tensor, linear: nn.Linear) -> Candidate:
    layer, activations = _layer(name, linear), SCHEMES[name][1]
    if activations.mode == "static":
        low, high = (float(end) for end in torch.aminmax(x))
        layer.set_input_range(InputRange.between(low, high, activations.bits, activations.symmetric))
    return Candidate(name, lambda: layer(x), layer.backend, layer.resident_bytes(), layer.simulated)
