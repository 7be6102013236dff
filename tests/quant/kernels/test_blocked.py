"""Weight-only layers without a kernel, against the float64 product with the dequantized weight."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggtq.quant.kernels.cpu.blocked import BlockedLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers import rounding
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    kind = draw(st.sampled_from(["int", "int", "float16", "bfloat16", "float8_e4m3", "mxfp4", "nvfp4"]))
    if kind == "mxfp4":
        return Weights(kind, 4, granularity="group", group_size=32, scale_dtype="float8_e8m0")
    if kind == "nvfp4":
        return Weights(kind, 4, granularity="group", group_size=16, scale_dtype="float8_e4m3")
    if kind != "int":
        return Weights(kind, 8) if kind == "float8_e4m3" else Weights(kind, 16, granularity="none")
    bits = draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]))
    granularity = draw(st.sampled_from(["per_tensor", "per_channel", "group"]))
    group = draw(st.sampled_from([None, 2, 7, 16, 32, 100])) if granularity == "group" else None
    scales = draw(st.sampled_from(["float32", "float16"])) if bits < 16 else "float32"
    return Weights("int", bits, draw(st.booleans()), granularity, group, scales)


def exact(packed: PackedWeight, bias: Tensor | None, x: Tensor) -> Tensor:
    out = x.double() @ packed.dequantize().double().t()
    return out if bias is None else out + bias.double()


@settings(max_examples=60, deadline=None)
@given(
    spec=weights(),
    shape=st.tuples(st.sampled_from([1, 3, 40]), st.integers(1, 140), st.integers(1, 40)),
    block=st.sampled_from([64, 700, 10**6]),
    biased=st.booleans(),
    seed=st.integers(0, 10),
)
def test_products_are_those_of_the_dequantized_weight(
    spec: Weights, shape: tuple[int, int, int], block: int, biased: bool, seed: int
) -> None:
    tokens, columns, rows = shape
    generator = torch.Generator().manual_seed(seed)
    packed = pack_weight(torch.randn(rows, columns, generator=generator), spec)
    bias = nn.Parameter(torch.randn(rows, generator=generator)) if biased else None
    x = torch.randn(tokens, columns, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "BLOCK_WEIGHTS", block)
        layer = BlockedLinear(packed, bias, Activations())
        torch.testing.assert_close(layer(x).double(), exact(packed, bias, x), rtol=1e-4, atol=1e-4)
    kept = layer.weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    assert all(kept[name] is tensor for name, tensor in packed.tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_have_the_dtype_of_the_inputs(dtype: torch.dtype) -> None:
    packed = pack_weight(torch.randn(24, 300), Weights(bits=3))
    bias, x = nn.Parameter(torch.randn(24)), (100 * torch.randn(70, 300)).to(dtype)
    out, expected = BlockedLinear(packed, bias, Activations())(x), exact(packed, bias, x)
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < 4 * torch.finfo(dtype).eps


def test_few_weights_are_float_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, seen = BlockedLinear(pack_weight(torch.randn(90, 50), Weights()), None, Activations()), []
    plain = layer.dequantized_block

    def counting(block: slice, dtype: torch.dtype) -> Tensor:
        seen.append(plain(block, dtype).numel())
        return plain(block, dtype)

    monkeypatch.setattr(rounding, "BLOCK_WEIGHTS", 1000)
    monkeypatch.setattr(layer, "dequantized_block", counting)
    layer(torch.randn(100, 50))
    assert sum(seen) == 90 * 50
    assert max(seen) <= 1000


def test_layers_are_copied_and_learn_nothing_but_pass_gradients_on() -> None:
    layer = BlockedLinear(
        pack_weight(torch.randn(8, 16), Weights(bits=3)), nn.Parameter(torch.zeros(8)), Activations()
    )
    x = torch.randn(2, 16, requires_grad=True)
    out = copy.deepcopy(layer)(x)
    assert torch.equal(out, layer(x))
    out.sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantized(torch.float32).sum(0).expand(2, -1))
