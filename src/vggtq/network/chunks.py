"""A transformer block over a few tokens at a time: besides its input, its output and the keys and values, nothing grows with
the number of tokens.

Queries wait where the outputs will be. Keys and values are stored once, the numbers of a head side by side. torch's CPU kernel
and FlashAttention (Dao et al. 2022) hold neither scores nor another copy of them.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vggtq.network.attention import attend
from vggtq.network.coded_keys import CodedKeys

RopeTable = tuple[Tensor, Tensor]
Project = Callable[[Tensor, RopeTable | None], tuple[Tensor, Tensor, Tensor]]
"""x (B, N, C) and the rotary table of its tokens → q, k, v, (B, H, N, d) each"""
Finish = Callable[[Tensor, Tensor], Tensor]
"""x (B, N, C) and what its queries saw (B, H, N, d) → the output of the block (B, N, C)"""
Whole = Callable[[Tensor], Tensor]
"""x (B, …) → what is made of it, all at once and every row by itself"""


def in_rows(whole: Whole, x: Tensor, rows: int) -> Tensor:
    """`whole` of a few rows at a time. x: (B, …)."""
    if len(x) <= rows:
        return whole(x)
    first = whole(x[:rows])
    out = first.new_empty(len(x), *first.shape[1:])
    out[:rows] = first
    del first
    for start in range(rows, len(x), rows):
        out[start : start + rows] = whole(x[start : start + rows])
    return out


def in_chunks(
    project: Project,
    finish: Finish,
    x: Tensor,
    rope: RopeTable | None,
    size: int,
    dtype: torch.dtype | None,
    coded: bool,
    among: Tensor | None = None,
) -> Tensor:
    """x: (B, N, C), sequence by sequence, `size` tokens at a time. dtype: as `attend`; coded: keys and values in int8.

    among: which tokens are keys, in ascending order; None for all, as it has to be for coded ones.
    """
    out = torch.empty_like(x)
    for x_row, out_row in zip(x.split(1), out.split(1), strict=True):
        _one_sequence(project, finish, x_row, out_row, rope, size, dtype, coded, among)
    return out


def _one_sequence(
    project: Project,
    finish: Finish,
    x: Tensor,
    out: Tensor,
    rope: RopeTable | None,
    size: int,
    dtype: torch.dtype | None,
    coded: bool,
    among: Tensor | None,
) -> None:
    keys = x.shape[1] if among is None else len(among)
    filled = 0
    seen: CodedKeys | Keys | None = None
    for chunk in _chunks(x.shape[1], size):
        angles = None if rope is None else (rope[0][chunk], rope[1][chunk])
        q, k, v = project(x[:, chunk], angles)
        if seen is None:
            seen = CodedKeys(k, keys) if coded else Keys(k, keys, dtype)
        if among is not None:
            chosen = among[(among >= chunk.start) & (among < chunk.stop)] - chunk.start
            k, v = k[:, :, chosen], v[:, :, chosen]
        seen.put(filled, k, v)
        filled += k.shape[2]
        heads = q.shape[1]
        out[:, chunk] = q.transpose(1, 2).flatten(2)
        del q, k, v
    assert seen is not None
    for chunk in _chunks(x.shape[1], size):
        q = out[:, chunk].unflatten(-1, (heads, -1)).transpose(1, 2)
        out[:, chunk] = finish(x[:, chunk], seen.attend(q))


def _chunks(tokens: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


class Keys:
    """Keys and values of one sequence, (1, H, tokens, d) each, in the type that scaled dot products run in."""

    def __init__(self, like: Tensor, tokens: int, dtype: torch.dtype | None) -> None:
        kept = like.dtype if dtype in (None, torch.int8) else dtype
        self._dtype, self._outputs = dtype, like.dtype
        shape = (1, like.shape[1], tokens, like.shape[3])
        self._keys, self._values = (torch.empty(shape, dtype=kept, device=like.device) for _ in range(2))

    def put(self, start: int, keys: Tensor, values: Tensor) -> None:
        """Those from token `start` on."""
        stop = start + keys.shape[2]
        self._keys[:, :, start:stop], self._values[:, :, start:stop] = keys, values

    def attend(self, q: Tensor) -> Tensor:
        """q: (1, H, L, d). Returns what they see of all tokens."""
        return attend(q.to(self._outputs), self._keys, self._values, self._dtype)
