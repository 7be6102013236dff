"""Keys and values of a long sequence in 8 bits, each block of keys of a head with one scale and a mean of its own.

A mean that a block's keys share costs no bits this way; SageAttention (Zhang et al. 2024, arXiv 2410.02367, section 4.2) takes
one of all keys, which is known only when all are there. A few blocks at a time become float again and are attended to; their
results are put together by their normalisers, as in FlashAttention (Dao et al. 2022, algorithm 1).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.network.memory import KEY_BLOCK

BLOCKS_AT_A_TIME = 16
LARGEST = 127


class CodedKeys:
    """Keys and values of one sequence of `tokens`; like: some keys (1, H, n, d) of the type that they come in."""

    def __init__(self, like: Tensor, tokens: int) -> None:
        self._keys, self._values = (_Coded(like, tokens) for _ in range(2))
        self._tokens = tokens

    def put(self, start: int, keys: Tensor, values: Tensor) -> None:
        """Those from token `start` on, a multiple of the block, (1, H, n, d) each; n is one, too, but for the last."""
        self._keys.put(start, keys)
        self._values.put(start, values)

    def attend(self, q: Tensor) -> Tensor:
        """q: (1, H, L, d). Returns softmax(q kᵀ / √d) v of all tokens, (1, H, L, d)."""
        step = KEY_BLOCK * BLOCKS_AT_A_TIME
        out, weight = None, None
        for start in range(0, self._tokens, step):
            stop = min(start + step, self._tokens)
            part, log_weight = _partial(q, self._keys.get(start, stop), self._values.get(start, stop))
            if out is None or weight is None:
                out, weight = part, log_weight
                continue
            share = torch.sigmoid(log_weight - weight)
            out = out.lerp_(part, share)
            weight = torch.logaddexp(weight, log_weight)
        assert out is not None
        return out


class _Coded:
    def __init__(self, like: Tensor, tokens: int) -> None:
        _, heads, _, width = like.shape
        blocks = -(-tokens // KEY_BLOCK)
        self._codes = torch.empty(1, heads, tokens, width, dtype=torch.int8, device=like.device)
        self._means = like.new_empty(1, heads, blocks, width)
        self._scales = like.new_empty(1, heads, blocks, 1)

    def put(self, start: int, numbers: Tensor) -> None:
        for first in range(0, numbers.shape[2], KEY_BLOCK):
            block = numbers[:, :, first : first + KEY_BLOCK]
            at, where = (start + first) // KEY_BLOCK, slice(start + first, start + first + block.shape[2])
            mean = block.mean(2, keepdim=True)
            rest = block - mean
            scale = rest.abs().amax((2, 3), keepdim=True).clamp_min(torch.finfo(rest.dtype).tiny) / LARGEST
            self._codes[:, :, where] = (rest / scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
            self._means[:, :, at : at + 1], self._scales[:, :, at : at + 1] = mean, scale

    def get(self, start: int, stop: int) -> Tensor:
        """The numbers of tokens start … stop - 1, both at ends of blocks, (1, H, n, d)."""
        blocks = slice(start // KEY_BLOCK, -(-stop // KEY_BLOCK))
        codes = self._codes[:, :, start:stop].to(self._means.dtype)
        scales, means = self._scales[:, :, blocks], self._means[:, :, blocks]
        whole = codes.shape[2] // KEY_BLOCK * KEY_BLOCK
        inside = codes[:, :, :whole].unflatten(2, (-1, KEY_BLOCK))
        count = inside.shape[2]
        inside.mul_(scales[:, :, :count, None]).add_(means[:, :, :count, None])
        if whole < codes.shape[2]:
            codes[:, :, whole:].mul_(scales[:, :, count:]).add_(means[:, :, count:])
        return codes


def _partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of q over some keys (1, H, L, d), and the logarithm of the sum of its weights (1, H, L, 1)."""
    q = q.to(k.dtype)
    if q.device.type == "cpu":  # without the scores
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return out, weight[..., None]
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    weight = scores.logsumexp(-1, keepdim=True)
    return F.softmax(scores, -1) @ v, weight
