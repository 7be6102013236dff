"""The CUDA layers: agreement with the reference of the same scheme, tracing, and what they keep."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.cuda_layers import FLOAT8, INT4_GROUP, INT8, normal, there
from helpers.triton_device import BFLOAT16_STEP, DEVICE
from vggtq.quant.kernels.cuda import triton_layers
from vggtq.quant.kernels.cuda.triton_layers import (
    CudaLinear,
    Float8Linear,
    PackedWeightLinear,
    TritonInt8Linear,
)
from vggtq.quant.kernels.linear import QuantLinear, ReferenceLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

LAYERS: list[tuple[type[CudaLinear], Weights, Activations]] = [
    (TritonInt8Linear, Weights(), INT8),
    (TritonInt8Linear, Weights(symmetric=False), INT8),
    (TritonInt8Linear, Weights(granularity="per_tensor", symmetric=False, scale_dtype="float16"), INT8),
    (TritonInt8Linear, Weights(granularity="group", group_size=None), Activations("dynamic", 6)),
    (Float8Linear, Weights("float8_e4m3"), FLOAT8),
    (Float8Linear, Weights("float8_e4m3", granularity="per_tensor"), FLOAT8),
    (PackedWeightLinear, Weights(), Activations()),
    (PackedWeightLinear, INT4_GROUP, Activations()),
    (PackedWeightLinear, Weights(bits=4, symmetric=False, granularity="group", group_size=48), Activations()),
    (PackedWeightLinear, Weights(bits=3), Activations()),
]
layers = pytest.mark.parametrize(
    ("kind", "spec", "activations"),
    LAYERS,
    ids=[f"{k.__name__}-{s.bits}-{i}" for i, (k, s, _) in enumerate(LAYERS)],
)


def pair(
    kind: type[CudaLinear], spec: Weights, activations: Activations, shape: tuple[int, int] = (48, 160)
) -> tuple[CudaLinear, ReferenceLinear]:
    """The layer on DEVICE, and the reference of the same numbers on the CPU."""
    packed = pack_weight(normal(*shape, seed=1).cpu() / shape[1] ** 0.5, spec)
    bias = nn.Parameter(normal(shape[0], seed=2).cpu(), requires_grad=False)
    layer = kind(there(packed), nn.Parameter(bias.to(DEVICE), requires_grad=False), activations)
    return layer, ReferenceLinear(packed, bias, activations)


def bound(layer: QuantLinear, reference: ReferenceLinear, x: Tensor) -> Tensor:
    """What the order of sums can change: a part of Σ|x||w| + |b|. FP8's tensor cores keep about 14 bits of partial sums."""
    assert reference.bias is not None
    size = F.linear(x.cpu().float().abs(), reference.dequantized(torch.float32).abs(), reference.bias.abs())
    fast = isinstance(layer, Float8Linear) and DEVICE.type == "cuda"
    return (2.0**-10 if fast else 2e-6) * size


@layers
@pytest.mark.parametrize("rows", [1, 64, 130])
def test_the_result_is_the_references(
    kind: type[CudaLinear], spec: Weights, activations: Activations, rows: int
) -> None:
    layer, reference = pair(kind, spec, activations)
    x = normal(rows, 160, seed=3) * torch.linspace(-3, 3, rows).exp().to(DEVICE)[:, None]
    assert ((layer(x).cpu() - reference(x.cpu())).abs() <= bound(layer, reference, x)).all()
    assert not layer.simulated


@layers
def test_bfloat16_in_bfloat16_out(kind: type[CudaLinear], spec: Weights, activations: Activations) -> None:
    layer, reference = pair(kind, spec, activations)
    x = normal(70, 160, seed=3).bfloat16()
    y, exact = layer(x).cpu(), reference(x.cpu().float())
    assert y.dtype == torch.bfloat16
    # The result is rounded; weights alone were rounded, too, which independent terms average.
    step = BFLOAT16_STEP * exact.abs() + (2.0**-8 * exact.abs().amax() if activations.mode == "none" else 0)
    assert ((y.float() - exact).abs() <= step + bound(layer, reference, x)).all()


@layers
def test_autocast_decides_as_it_does_for_linear(
    kind: type[CudaLinear], spec: Weights, activations: Activations
) -> None:
    layer, _ = pair(kind, spec, activations)
    x = normal(66, 160, seed=3)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert layer(x).dtype == F.linear(x, normal(48, 160)).dtype == torch.bfloat16
    with torch.autocast(DEVICE.type, enabled=False):
        assert layer(x).dtype == torch.float32


@layers
@pytest.mark.parametrize("shape", [(160,), (2, 3, 160), (0, 160), (4, 0, 160)], ids=str)
def test_leading_axes(
    kind: type[CudaLinear], spec: Weights, activations: Activations, shape: tuple[int, ...]
) -> None:
    layer, reference = pair(kind, spec, activations)
    x = normal(*shape, seed=4)
    assert layer(x).shape == (*shape[:-1], 48)
    torch.testing.assert_close(layer(x).cpu(), reference(x.cpu()), rtol=1e-3, atol=1e-3)


@layers
def test_what_is_saved_is_the_packed_weight(
    kind: type[CudaLinear], spec: Weights, activations: Activations
) -> None:
    packed = there(pack_weight(normal(24, 50).cpu(), spec))
    layer = kind(packed, None, activations)
    kept = layer.weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    assert all(torch.equal(kept[k].view(torch.uint8), t.view(torch.uint8)) for k, t in packed.tensors.items())
    assert layer.resident_bytes() == packed.stored_bytes
    moved = copy.deepcopy(layer).to(torch.bfloat16)
    assert all(torch.equal(moved.weight_tensors()[k].float(), t.float()) for k, t in kept.items())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter, for inf / inf
@layers
def test_zeros_give_the_bias_and_a_broken_row_stays_alone(
    kind: type[CudaLinear], spec: Weights, activations: Activations
) -> None:
    layer, _ = pair(kind, spec, activations)
    x = normal(70, 160)
    x[0], x[1, 2], x[2, 5] = 0, torch.nan, torch.inf
    y = layer(x)
    torch.testing.assert_close(y[0], layer.bias, rtol=1e-6, atol=1e-6)
    assert not y[1].isfinite().any()
    assert not y[2].isfinite().all()
    assert y[3:].isfinite().all()


@pytest.mark.parametrize(
    ("kind", "spec", "activations"), [LAYERS[1], LAYERS[4], LAYERS[7]], ids=["int8", "fp8", "int4"]
)
def test_torch_compile_sees_one_graph(
    kind: type[CudaLinear], spec: Weights, activations: Activations
) -> None:
    layer, reference = pair(kind, spec, activations)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.no_grad():
        for rows in (10, 80):
            x = normal(rows, 160, seed=3)
            assert ((compiled(x) - layer(x)).abs().cpu() <= bound(layer, reference, x)).all()


def test_a_note_says_how_many_rows_are_dequantized() -> None:
    layer, _ = pair(PackedWeightLinear, INT4_GROUP, Activations())
    assert layer.notes == ("more than 64 rows: dequantized once per call, then a float product",)


def checked_scaled_mm(a: Tensor, b: Tensor, **kwargs: object) -> Tensor:
    """What torch._scaled_mm computes, insisting on the rules of CUDA's row-wise version."""
    scale_a, scale_b, bias = (kwargs[k] for k in ("scale_a", "scale_b", "bias"))
    assert isinstance(scale_a, Tensor) and isinstance(scale_b, Tensor) and isinstance(bias, Tensor)
    assert a.dtype == b.dtype == torch.float8_e4m3fn
    assert a.is_contiguous() and b.t().is_contiguous()
    assert a.shape[1] % 16 == b.shape[1] % 16 == 0
    assert scale_a.shape == (a.shape[0], 1) and scale_b.shape == (1, b.shape[1])
    assert scale_a.dtype == scale_b.dtype == torch.float32
    assert scale_a.is_contiguous() and scale_b.is_contiguous()
    assert kwargs["out_dtype"] == bias.dtype == torch.bfloat16
    return (a.float() @ b.float() * scale_a * scale_b + bias.float()).bfloat16()


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_scaled_mm_is_called_by_its_rules(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_layers, "capability", lambda device: (9, 0))
    layer, reference = pair(Float8Linear, Weights("float8_e4m3", granularity=granularity), FLOAT8)
    calls: list[int] = []

    def scaled_mm(a: Tensor, b: Tensor, **kwargs: object) -> Tensor:
        calls.append(len(a))
        return checked_scaled_mm(a, b, **kwargs)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    for rows in (1, 16, 17, 70):
        x = normal(rows, 160, seed=rows).bfloat16()
        torch.testing.assert_close(
            layer(x).cpu().float(), reference(x.cpu().float()), rtol=BFLOAT16_STEP, atol=0.02
        )
    assert calls == [17, 70]
    layer(normal(3, 160))  # float32 results are not cut down to bfloat16
    assert layer(normal(0, 160).bfloat16()).shape == (0, 48)
    odd, _ = pair(Float8Linear, Weights("float8_e4m3"), FLOAT8, (40, 160))
    odd(x)
    assert calls == [17, 70]


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a GPU")
def test_a_layer_does_not_leave_the_gpu() -> None:
    layer, _ = pair(*LAYERS[0])
    with pytest.raises(RuntimeError, match="cannot leave the GPU"):
        layer.cpu()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a GPU")
@layers
@pytest.mark.parametrize("rows", [10, 930])
def test_a_cuda_graph_replays_the_result(
    kind: type[CudaLinear], spec: Weights, activations: Activations, rows: int
) -> None:
    layer, _ = pair(kind, spec, activations)
    x = normal(rows, 160).bfloat16()
    layer(x)  # tiles are searched before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = layer(x)
    x.copy_(normal(rows, 160, seed=9))
    graph.replay()
    torch.testing.assert_close(y, layer(x), rtol=0, atol=0)
