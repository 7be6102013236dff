"""Weight-only layers against the float64 product with the dequantized weight, for every width, layout and block size."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggtq.quant import blocked_linear, blocked_planes, blocked_rows
from vggtq.quant.backends import quantized_linear
from vggtq.quant.blocked_linear import BlockedLinear
from vggtq.quant.blocked_planes import PlanesLinear, decode_, plane_bytes, to_planes
from vggtq.quant.blocked_rows import EmbeddingRowsLinear
from vggtq.quant.blocked_wide import WideLinear
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.scheme import Activations, Weights

LAYOUTS = (EmbeddingRowsLinear, PlanesLinear, WideLinear)
CPU = torch.device("cpu")


@st.composite
def integer_weights(draw: st.DrawFn) -> Weights:
    bits = draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]))
    granularity = draw(st.sampled_from(["per_tensor", "per_channel", "group"]))
    group = draw(st.sampled_from([None, 2, 7, 16, 32, 100])) if granularity == "group" else None
    scales = draw(st.sampled_from(["float32", "float16"])) if bits < 16 else "float32"
    return Weights("int", bits, draw(st.booleans()), granularity, group, scales)


def exact(packed: PackedWeight, bias: Tensor | None, x: Tensor) -> Tensor:
    out = x.double() @ packed.dequantize().double().t()
    return out if bias is None else out + bias.double()


def bound(packed: PackedWeight, bias: Tensor | None, x: Tensor) -> Tensor:
    """What float32 may lose: a rounding of each product and partial sum, and of codes and zero points of 16 bits."""
    sums = x.abs().double() @ packed.dequantize().double().abs().t() + (0 if bias is None else bias.abs())
    assert packed.scale is not None
    steps = x.abs().double().sum(1, keepdim=True) * float(packed.scale.amax()) * 2 ** min(packed.spec.bits, 9)
    return 1e-6 * (sums + steps) + 1e-30


@settings(max_examples=200, deadline=None)
@given(
    spec=integer_weights(),
    rows=st.integers(1, 40),
    columns=st.integers(1, 140),
    tokens=st.sampled_from([1, 3, 40, 200]),
    block=st.sampled_from([64, 700, 10**6]),
    biased=st.booleans(),
    seed=st.integers(0, 10),
)
def test_products_are_those_of_the_dequantized_weight(
    spec: Weights, rows: int, columns: int, tokens: int, block: int, biased: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** (seed % 5 - 2)
    packed = pack_weight(weight, spec)
    bias = nn.Parameter(torch.randn(rows, generator=generator)) if biased else None
    x = torch.randn(tokens, columns, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_linear, "BLOCK_WEIGHTS", block)
        patch.setattr(blocked_linear, "BLOCK_WEIGHTS_OF_FEW_ROWS", block)
        patch.setattr(blocked_planes, "UNIT_WEIGHTS", 300)
        for layout in LAYOUTS:
            if not layout.supports(spec, Activations(), (rows, columns), CPU):
                continue
            layer = layout(packed, bias, Activations())
            error = (layer(x).double() - exact(packed, bias, x)).abs()
            assert (error <= bound(packed, bias, x)).all(), layout
            kept = layer.weight_tensors()
            assert kept.keys() == packed.tensors.keys()
            for name, tensor in packed.tensors.items():
                assert kept[name].dtype == tensor.dtype
                assert torch.equal(kept[name], tensor), (layout, name)


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("count", [1, 2, 7, 64, 1001])
def test_planes_hold_every_code_in_as_many_bits(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), dtype=torch.uint8)
    planes = to_planes(codes, bits)
    assert planes.numel() == plane_bytes(count, bits) <= count * bits / 8 + 3
    assert torch.equal(decode_(planes, bits, torch.full_like(codes, 255)), codes)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_weights_are_widened(name: str) -> None:
    weight, x = torch.randn(24, 40), torch.randn(5, 40)
    packed = pack_weight(weight, Weights(name, 16, granularity="none"))
    layer = WideLinear(packed, None, Activations())
    expected = x.double() @ weight.to(getattr(torch, name)).double().t()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert layer.weight_tensors()["codes"].equal(packed.codes)
    assert layer.resident_bytes() == packed.stored_bytes


def test_8_bit_floats_are_widened_and_scaled() -> None:
    packed, x = pack_weight(torch.randn(24, 40), Weights("float8_e4m3", 8)), torch.randn(5, 40)
    layer = quantized_linear(packed, None, Activations())
    assert (layer.backend, layer.simulated) == ("blocked", False)
    torch.testing.assert_close(layer(x).double(), exact(packed, None, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [3, 4, 8, 16])
def test_products_have_the_dtype_of_the_inputs(dtype: torch.dtype, bits: int) -> None:
    packed = pack_weight(torch.randn(24, 300), Weights(bits=bits))
    bias, x = nn.Parameter(torch.randn(24)), (100 * torch.randn(70, 300)).to(dtype)
    out = quantized_linear(packed, bias, Activations())(x)
    assert out.dtype == dtype
    expected = exact(packed, bias, x)
    assert (out - expected).norm() / expected.norm() < 4 * torch.finfo(dtype).eps


def test_pruned_weights_stay_exactly_zero_with_symmetric_codes() -> None:
    weight = torch.randn(8, 64)
    weight[:, ::3] = 0
    for bits in (2, 3, 4, 8):
        spec = Weights(bits=bits, granularity="group", group_size=16, scale_dtype="float16")
        layer = quantized_linear(pack_weight(weight, spec), None, Activations())
        assert torch.equal(layer(torch.eye(64))[::3], torch.zeros(22, 8))


def test_few_weights_are_float_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(blocked_linear, "BLOCK_WEIGHTS", 1000)
    for layout, bits in ((EmbeddingRowsLinear, 4), (PlanesLinear, 3), (WideLinear, 8)):
        monkeypatch.setattr(blocked_planes, "UNIT_WEIGHTS", 250)
        layer = layout(pack_weight(torch.randn(90, 50), Weights(bits=bits)), None, Activations())
        plain = layer.dequantized

        def counting(block: slice, scaled: bool = True, plain=plain) -> Tensor:  # type: ignore[no-untyped-def]
            weight = plain(block, scaled)
            seen.append(weight.numel())
            return weight

        monkeypatch.setattr(layer, "dequantized", counting)
        seen.clear()
        layer(torch.randn(100, 50))
        assert sum(seen) == 90 * 50
        assert max(seen) <= 1000


def test_four_bits_in_groups_keep_scale_and_zero_point_beside_each_group() -> None:
    spec = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
    layer = quantized_linear(pack_weight(torch.randn(512, 1024), spec), None, Activations())
    assert (layer.backend, layer.simulated) == ("blocked", False)
    assert layer.resident_bytes() == 512 * (1024 // 64) * (32 + 2 + 2)


def test_without_the_embedding_kernels_other_layouts_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_rows, "embedding_kernel", lambda bits: None)
    for bits, layout in ((4, PlanesLinear), (8, WideLinear)):
        layer = quantized_linear(pack_weight(torch.randn(8, 16), Weights(bits=bits)), None, Activations())
        assert type(layer) is layout


def test_threads_do_not_share_scratch_memory() -> None:
    layers = [
        quantized_linear(pack_weight(torch.randn(64, 200), Weights(bits=3)), None, Activations())
        for _ in range(4)
    ]
    x = torch.randn(64, 200)
    expected = [layer(x) for layer in layers]
    wrong: list[int] = []

    def work(number: int) -> None:
        wrong.extend(number for _ in range(50) if not torch.equal(layers[number](x), expected[number]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_grad_mode_and_inference_mode_may_follow_each_other() -> None:
    layer = quantized_linear(
        pack_weight(torch.randn(8, 16), Weights(bits=3)), nn.Parameter(torch.zeros(8)), Activations()
    )
    assert isinstance(layer, BlockedLinear)
    x = torch.randn(2, 16)
    with torch.inference_mode():
        first = layer(x)
    second = copy.deepcopy(layer)(x.requires_grad_())
    assert torch.equal(first, second)
    assert not second.requires_grad
