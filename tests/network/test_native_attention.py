"""What holds for attention by 8-bit integers and in bfloat16 alike, on every instruction set of this CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers.guarded import Guarded
from helpers.threads import threads
from vggtq.machine import native
from vggtq.network.native_attention import bfloat16_attention, int8_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(params=["int8", "bfloat16"])
def attention(isa: str, request: pytest.FixtureRequest) -> Attention:
    library = native.library()
    assert library is not None
    if request.param == "int8":
        return int8_attention
    if not library.attends_in_bfloat16:
        pytest.skip(f"{isa} has no attention in bfloat16")
    return bfloat16_attention


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 20])
def test_other_types_are_rounded_once(attention: Attention, dtype: torch.dtype, width: int) -> None:
    q, k, v = (draw(2, 2, 45, width, seed=i).to(dtype) for i in range(3))
    found = attention(q, k, v)
    assert found.dtype == dtype
    assert torch.equal(found, attention(q.float(), k.float(), v.float()).to(dtype))


def test_strides_do_not_matter(attention: Attention) -> None:
    q, k, v = draw(2, 33, 3, 4, 32).permute(2, 0, 3, 1, 4)
    found = attention(q, k, v)
    assert torch.equal(found, attention(q.contiguous(), k.contiguous(), v.contiguous()))
    assert found.transpose(1, 2).is_contiguous()
    spread = draw(2, 4, 32, 33).transpose(2, 3)  # a token's numbers are not side by side
    assert torch.equal(attention(spread, k, v), attention(spread.contiguous(), k, v))


@pytest.mark.parametrize("tokens", [1, 41, 1300])
def test_results_do_not_depend_on_threads(attention: Attention, tokens: int) -> None:
    q, k, v = (draw(2, 3, tokens, 32, seed=i) for i in range(3))
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(attention(q, k, v))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("shape", [(13, 41, 64), (1, 1, 1), (12, 513, 33), (25, 64, 47)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_read_beyond_a_buffer(
    attention: Attention, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    asking, answering, width = shape
    guarded = Guarded()
    q, k, v = (draw(1, 2, n, width, seed=i).to(dtype) for i, n in enumerate((asking, answering, answering)))
    found = attention(*(guarded.copy(tensor) for tensor in (q, k, v)))
    assert torch.equal(found, attention(q, k, v))
