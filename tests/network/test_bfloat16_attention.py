"""Attention in bfloat16 on native kernels: against float64 and torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.machine import native
from vggtq.network import native_attention as module
from vggtq.network.attention import attend
from vggtq.network.native_attention import bfloat16_attention, has_bfloat16_attention

EPS = 2.0**-8  # of bfloat16, twice half a step


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def kernel(isa: str) -> str:
    """An instruction set with the kernel."""
    library = native.library()
    assert library is not None
    if not library.attends_in_bfloat16:
        pytest.skip(f"{isa} has no attention in bfloat16")
    return isa


shapes = st.tuples(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 110), st.integers(1, 90), st.integers(1, 70)
)


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Inputs are rounded; each weight is, by half a step at most; the rest is float32."""
    found = bfloat16_attention(q, k, v)
    assert found.shape == q.shape
    q, k, v = (t.bfloat16().double() for t in (q, k, v))
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    weights = logits.softmax(-1)
    bound = (EPS + 1e-5 * (1 + logits.abs().amax())) * (weights @ v.abs()) + 1e-6
    assert ((found - weights @ v).abs() <= bound).all()


@given(shapes, st.sampled_from([1e-3, 0.3, 1.0, 3.0]), st.sampled_from([0.0, 5.0]), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def check_against_float64(
    shape: tuple[int, int, int, int, int], size: float, offset: float, seed: int
) -> None:
    batch, heads, asking, answering, width = shape
    q = draw(batch, heads, asking, width, seed=seed) * size
    check(q, *(draw(batch, heads, answering, width, seed=seed + i) + offset for i in (1, 2)))


def test_errors_stay_within_what_rounding_allows(kernel: str) -> None:
    check_against_float64()


@pytest.mark.parametrize(("asking", "answering"), [(37, 255), (5, 256), (200, 257), (97, 1100), (1, 2049)])
def test_blocks_of_keys_and_groups_of_queries_are_put_together(
    kernel: str, asking: int, answering: int
) -> None:
    q, k, v = (draw(1, 2, n, 64, seed=i) for i, n in enumerate((asking, answering, answering)))
    k[:, :, answering // 2 :] += 2  # maxima of later blocks are larger for some queries, smaller for others
    check(q, k, v)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_broken_numbers_stay_where_torch_leaves_them(kernel: str, broken: float) -> None:
    q, k, v = (draw(1, 3, 70, 24, seed=i) for i in range(3))
    clean = bfloat16_attention(q, k, v)
    q[0, 0, 5, 3], k[0, 1, 69, 0], v[0, 2, 1, 20] = broken, broken, broken
    found, torchs = bfloat16_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(found.isnan(), torchs.isnan())
    assert torch.equal(found.isinf(), torchs.isinf())
    kept = [c for c in range(24) if c != 20]
    assert torch.equal(found[0, 0, 6:], clean[0, 0, 6:])
    assert torch.equal(found[0, 2][:, kept], clean[0, 2][:, kept])


class Net(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, torch.bfloat16).transpose(1, 2).flatten(2)


def test_modules_use_it_and_graphs_do_not(kernel: str) -> None:
    inputs = tuple(draw(1, 2, n, 16, seed=i) for i, n in enumerate((9, 21, 21)))
    wanted = Net()(*inputs)
    assert torch.equal(wanted, bfloat16_attention(*inputs).transpose(1, 2).flatten(2))
    mask = torch.zeros(9, 21)
    assert not torch.equal(attend(*inputs, torch.bfloat16, mask), attend(*inputs, torch.bfloat16))
    exported = torch.export.export(Net(), inputs)
    assert "vggtq" not in exported.graph_module.code
    for graph in (exported.module(), torch.compile(Net(), backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(graph(*inputs), wanted, rtol=0, atol=0.03)


def test_a_wrong_kernel_is_not_used(
    kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_attention", lambda q, k, v, in_bfloat16: torch.zeros_like(q))
    assert not has_bfloat16_attention()  # nothing has asked for it before on this instruction set
    assert "native bfloat16 attention is not used" in caplog.text


def test_without_it_torch_computes(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggtq.network.attention.has_bfloat16_attention", lambda: False)
    q, k, v = (draw(1, 2, 20, 16, seed=i) for i in range(3))
    wanted = F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    assert torch.equal(attend(q, k, v, torch.bfloat16), wanted)
