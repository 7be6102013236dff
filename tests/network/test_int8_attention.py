"""Attention by 8-bit integers on every instruction set of this CPU: against float64, in modules, and in files."""

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.instruction_sets import capped
from vggtq.artifact import load_into_, save
from vggtq.errors import QuantizationError
from vggtq.machine import native
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.vggt.vit import Block
from vggtq.network import native_attention as module
from vggtq.network.attention import attend, set_attention_
from vggtq.network.native_attention import int8_attention, int8_problem
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_

built = pytest.mark.skipif(native.problem() is not None, reason=f"no native kernels: {native.problem()}")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


def bound(q: Tensor, k: Tensor, v: Tensor, isa: str) -> Tensor:
    """(B, H, L, 1): the largest error that rounding allows, by codes of both ends."""
    end = 64 if isa == "avx2" else 127
    k, v = k - k.mean(2, keepdim=True), v - v.mean(2, keepdim=True)
    reach = v.abs().amax((2, 3), keepdim=True)  # of a value from the mean
    # A logit is off by half a step of q times |k|, half a step of k times |q|, and the product of both.
    half_q = q.abs().amax(3, keepdim=True) / 254
    half_k = k.abs().amax((2, 3), keepdim=True) / (2 * end)
    size_q, size_k = q.abs().sum(3, keepdim=True), k.abs().sum(3).amax(2)[..., None, None]
    logit = (half_q * size_k + half_k * size_q + q.shape[3] * half_q * half_k) / q.shape[3] ** 0.5
    # Weights change by a factor of e^±logit and of the exponential's own error; half a code more or less of 255 each.
    largest = (q @ k.transpose(-2, -1) / q.shape[3] ** 0.5).softmax(-1).amax(-1, keepdim=True)
    relative = (2 * logit + 0.004).expm1()
    absolute = k.shape[2] * largest * (2 * logit).exp() / 255 * 1.1
    return reach * ((relative + absolute).clamp(max=2) + 0.5 / end) + 1e-5 * (1 + v.abs().amax())


shapes = st.tuples(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 90), st.integers(1, 70)
)


@given(shapes, st.sampled_from([1e-3, 0.3, 1.0, 3.0]), st.sampled_from([0.0, 5.0]), st.integers(0, 2**20))
@settings(max_examples=60)
def check_against_float64(
    shape: tuple[int, int, int, int, int], size: float, offset: float, seed: int
) -> None:
    batch, heads, asking, answering, width = shape
    q = draw(batch, heads, asking, width, seed=seed) * size
    k, v = (draw(batch, heads, answering, width, seed=seed + i) + offset for i in (1, 2))
    found, library = int8_attention(q, k, v), native.library()
    assert library is not None
    assert found.shape == q.shape
    assert ((found - exact(q, k, v)).abs() <= bound(q.double(), k.double(), v.double(), library.isa)).all()


def test_errors_stay_within_what_rounding_allows(isa: str) -> None:
    check_against_float64()


@pytest.mark.parametrize(("asking", "answering"), [(37, 511), (5, 512), (20, 513), (13, 1100), (1, 2049)])
def test_blocks_of_keys_are_put_together(isa: str, asking: int, answering: int) -> None:
    q, k, v = (draw(1, 2, n, 64, seed=i) for i, n in enumerate((asking, answering, answering)))
    k[:, :, answering // 2 :] += (
        2  # the maxima of later blocks are larger for some queries, smaller for others
    )
    reference = exact(q, k, v)
    error = (int8_attention(q, k, v) - reference).norm() / reference.norm()
    assert error < (0.06 if isa == "avx2" else 0.04)


def test_what_rounding_keeps_is_exact(isa: str) -> None:
    """Equal logits weigh all values alike; values at both ends of their codes come through."""
    end = 64 if isa == "avx2" else 127
    q, k = torch.zeros(1, 1, 14, 48), torch.full((1, 1, 700, 48), 7.0)
    v = torch.tensor([-1.0, 1.0]).repeat(350)[:, None] * (torch.arange(48) + 1)
    torch.testing.assert_close(
        int8_attention(q, k, v[None, None]), torch.zeros(1, 1, 14, 48), rtol=0, atol=1e-4
    )
    # One key beyond all others: its value alone is left.
    q[..., 0], k[:, :, 300, 0] = 127, 3000.0
    wanted = v[300] / end * end
    found = int8_attention(q, k, v[None, None])
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-5, atol=0)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_broken_numbers_stay_where_torch_leaves_them(isa: str, broken: float) -> None:
    q, k, v = (draw(1, 3, 70, 24, seed=i) for i in range(3))
    clean = int8_attention(q, k, v)
    q[0, 0, 5, 3], k[0, 1, 69, 0], v[0, 2, 1, 20] = broken, broken, broken
    found, torchs = int8_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert found[0, 0, 5].isnan().all()
    assert torch.equal(found[0, 0, 6:], clean[0, 0, 6:])
    assert torch.equal(found[0, 0, :5], clean[0, 0, :5])
    assert found[0, 1].isnan().all()  # torch's, too, for NaN; for Inf where logits are not -Inf
    torch.testing.assert_close(found[0, 2, :, 20], torchs[0, 2, :, 20], equal_nan=True)
    kept = [c for c in range(24) if c != 20]
    assert torch.equal(found[0, 2][:, kept], clean[0, 2][:, kept])


def test_large_and_tiny_numbers_do_no_harm(isa: str) -> None:
    q, k, v = (draw(1, 1, 30, 16, seed=i) for i in range(3))
    zero = torch.zeros_like(q)
    torch.testing.assert_close(
        int8_attention(zero, zero, v), v.mean(2, keepdim=True).expand_as(v), rtol=0, atol=0.02
    )
    assert torch.equal(int8_attention(q, k, zero), zero)
    assert int8_attention(q * 1e-38, k * 1e-3, v * 1e-39).isfinite().all()
    picks = (q * 1e15 @ (k * 1e15).transpose(2, 3)).argmax(-1)
    found = int8_attention(q * 1e15, k * 1e15, v)
    near = [(found[0, 0, i] - v[0, 0, int(picks[0, 0, i])]).abs().max() < 0.1 for i in range(30)]
    assert sum(near) > 24  # codes tell all but close ones apart


@built
def test_torch_compile_and_export_see_an_operator() -> None:
    class Net(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, k, v, torch.int8).transpose(1, 2).flatten(2)

    inputs = tuple(draw(1, 2, n, 16, seed=i) for i, n in enumerate((9, 21, 21)))
    exported = torch.export.export(Net(), inputs)
    assert "vggtq.int8_attention" in exported.graph_module.code
    wanted = Net()(*inputs)
    assert torch.equal(exported.module()(*inputs), wanted)
    compiled = torch.compile(Net(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*inputs), wanted)
    torch.library.opcheck(torch.ops.vggtq.int8_attention.default, inputs)


@built
def test_blocks_run_it_and_what_it_cannot_compute_stays_in_float(caplog: pytest.LogCaptureFixture) -> None:
    block, x = Block(32, 2, 2, scale=1.0).eval().requires_grad_(False), draw(2, 30, 32)
    wanted = block(x)
    quantize_(block, Scheme("fp32", Weights("float32", 32, granularity="none"), attention="int8"))
    error = (block(x) - wanted).norm() / wanted.norm()
    assert 0 < error < 0.02
    q, k, v = (draw(1, 2, 9, 16, seed=i) for i in range(3))
    mask = torch.zeros(9, 9)
    plain = F.scaled_dot_product_attention(q, k, v)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(attend(q, k, v, torch.int8, mask), F.scaled_dot_product_attention(q, k, v, mask))
        assert torch.equal(attend(q.requires_grad_(), k, v, torch.int8), plain)
    assert "int8 attention has no kernel for masks" in caplog.text
    assert "no kernel for gradients" in caplog.text


def test_without_kernels_it_is_refused_before_anything_is_replaced() -> None:
    block = Block(16, 2, 2, scale=1.0)
    with (
        capped("none"),
        pytest.raises(
            QuantizationError,
            match=r"scheme\.attention=int8: .*VGGTQ_MAX_ISA=none.*scheme\.attention=float32",
        ),
    ):
        quantize_(block, Scheme("int8", Weights(), attention="int8"), first_last=())
    assert isinstance(block.attn.qkv, nn.Linear)
    assert "not on cuda" in str(int8_problem(torch.device("cuda")))


@built
def test_a_file_with_it_loads_without_kernels_and_says_so(tmp_path: Path) -> None:
    block, path = Block(32, 2, 2, scale=1.0).eval(), tmp_path / "block.safetensors"
    scheme = Scheme("int8", Weights(), attention="int8")
    result = quantize_(block, scheme, first_last=())
    save(block, path, scheme, result, WeightsInfo("random", "file", "0" * 64))
    same = Block(32, 2, 2, scale=1.0).eval()
    assert "run in int8" in load_into_(same, path).notes[0]
    assert same.attn.attention_dtype == torch.int8
    other = Block(32, 2, 2, scale=1.0).eval()
    with capped("none"):
        assert "run in float32 instead of int8" in load_into_(other, path).notes[0]
    assert other.attn.attention_dtype is None


@built
def test_a_wrong_kernel_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_attention", lambda q, k, v, in_bfloat16: torch.zeros_like(q))
    module.is_right.cache_clear()
    try:
        assert int8_problem(torch.device("cpu")) == "its kernel gave a wrong result here"
        assert "native int8 attention is not used" in caplog.text
    finally:
        module.is_right.cache_clear()


def test_modules_take_it() -> None:
    block = Block(16, 2, 2, scale=1.0)
    assert set_attention_(block, "int8") == 1
    assert block.attn.attention_dtype == torch.int8
