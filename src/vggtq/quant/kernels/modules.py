"""Quantized counterparts of the modules that hold weights: the layout of each weight as rows, and the module
that replaces it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.network.attention import attend
from vggtq.quant.kernels.cpu.blocked import BlockedLinear
from vggtq.quant.kernels.cpu.native_conv import NativeConv
from vggtq.quant.kernels.cpu.onednn_conv import OneDnnInt8Conv
from vggtq.quant.kernels.cpu.window import window_of
from vggtq.quant.kernels.linear import QuantLinear, ReferenceLinear
from vggtq.quant.kernels.table import Case, convolution_backend, linear_backend
from vggtq.quant.numbers.basis import InputTransform, LowRank
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.rounding import row_blocks
from vggtq.quant.scheme.activations import Activations

LOW_RANK = ("low_rank_down", "low_rank_up")  # buffers of a layer with a branch


class QuantConv(nn.Module):
    """Conv2d or ConvTranspose2d; `rows` is the layer that holds its weight, one row per output channel.

    On the CPU, symmetric weights whose rows share a scale, with rounded activations, are multiplied as integers; all else is
    weight-only: blocks of output channels are dequantized and convolved in float, a grouped convolution at once. Elsewhere that
    is the reference.
    """

    rows: NativeConv | OneDnnInt8Conv | ReferenceLinear

    def __init__(
        self, packed: PackedWeight, conv: nn.Conv2d | nn.ConvTranspose2d, activations: Activations
    ) -> None:
        super().__init__()
        bias = conv.get_parameter("bias") if conv.bias is not None else None
        self.rows = _conv_rows(packed, bias, activations, conv)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.weight_shape, self.groups = tuple(conv.weight.shape), conv.groups
        self.stride, self.dilation = conv.stride, conv.dilation
        self.padding: Any = conv.padding  # numbers, or "same" for Conv2d
        self.output_padding = conv.output_padding

    @property
    def backend(self) -> str:
        return "blocked_conv" if isinstance(self.rows, BlockedLinear) else self.rows.backend

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.rows, NativeConv | OneDnnInt8Conv):
            return self.rows.convolve(x)
        bias = None if self.rows.bias is None else self.rows.bias.to(x.dtype)
        if self.groups > 1 or not isinstance(self.rows, BlockedLinear):
            return self._convolve(x, self.rows.dequantized(x.dtype), bias)
        parts = [
            self._convolve(x, self.rows.dequantized_block(b, x.dtype), None if bias is None else bias[b])
            for b in row_blocks(self.rows.get_buffer("codes"))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _convolve(self, x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        """x (M, C, H, W) by the output channels whose rows these are, (r, C/groups · height · width)."""
        if self.transposed:
            shape = (self.weight_shape[0], rows.shape[0] // self.groups, *self.weight_shape[2:])
            weight = conv_transpose_weight(rows, shape, self.groups)
            return F.conv_transpose2d(
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        weight = rows.reshape(-1, *self.weight_shape[1:])
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def _conv_rows(
    packed: PackedWeight,
    bias: nn.Parameter | None,
    activations: Activations,
    conv: nn.Conv2d | nn.ConvTranspose2d,
) -> NativeConv | OneDnnInt8Conv | ReferenceLinear:
    shape, device = (packed.codes.shape[0], packed.columns), packed.codes.device
    case, window = Case(packed.spec, activations, shape, device), window_of(conv)
    backend = None if window is None else convolution_backend(case, window)
    if window is not None and backend is not None:
        return backend(packed, bias, activations, window)
    layer = linear_backend(packed.spec, Activations(), shape, device, among=ReferenceLinear)
    rows = layer(packed, bias, Activations())
    assert isinstance(rows, ReferenceLinear)
    return rows


class TransformedLinear(nn.Module):
    """A quantized linear whose weight was rounded in another basis, where inputs go first, or that has a low-rank branch."""

    def __init__(
        self, linear: QuantLinear, transform: InputTransform, low_rank: LowRank | None = None
    ) -> None:
        super().__init__()
        self.linear, self._turn = linear, replace(transform, scale=None)
        self.register_buffer("input_scale", transform.scale)
        for key in LOW_RANK:
            part = None if low_rank is None else getattr(low_rank, key.removeprefix("low_rank_"))
            self.register_buffer(key, part)

    @property
    def transform(self) -> InputTransform:
        """The transform of the inputs."""
        return replace(self._turn, scale=self._buffers["input_scale"])

    @property
    def low_rank(self) -> LowRank | None:
        """The low-rank branch that is added to the quantized product."""
        down, up = (self._buffers[key] for key in LOW_RANK)
        return None if down is None or up is None else LowRank(down, up)

    def forward(self, x: Tensor) -> Tensor:
        x, branch = self.transform.inputs(x), self.low_rank
        out: Tensor = self.linear(x)
        return out if branch is None else out + branch.branch(x)

    def branch_tensors(self) -> dict[str, Tensor]:
        """The low-rank branch as a file keeps it, by name."""
        named = {key: self._buffers[key] for key in LOW_RANK}
        return {key: tensor for key, tensor in named.items() if tensor is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TransformedLinear":
        buffers = {key: tensor for key, tensor in self._buffers.items() if tensor is not None}
        super()._apply(fn, recurse)
        for key, tensor in buffers.items():  # move between devices, but keep their numbers
            self._buffers[key] = tensor.to(fn(tensor).device)
        return self


class QuantMultiheadAttention(nn.Module):
    """nn.MultiheadAttention whose input and output projections are quantized linears; attention itself stays in float."""

    attention_dtype: torch.dtype | None = None

    def __init__(self, attention: nn.MultiheadAttention, in_proj: QuantLinear, out_proj: QuantLinear) -> None:
        super().__init__()
        self.num_heads, self.batch_first = attention.num_heads, attention.batch_first
        self.in_proj, self.out_proj = in_proj, out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention: (B, L, E), (L, B, E) without batch_first, or (L, E). Returns output and maps or None.

        is_causal is a hint there, given beside the mask that it describes; only the mask is used.
        """
        if query.ndim == 2:
            return self._unbatched(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights
            )
        inputs = (
            (query, key, value) if self.batch_first else tuple(t.transpose(0, 1) for t in (query, key, value))
        )
        q, k, v = (self._heads(t) for t in self._project(*inputs))
        mask = _additive_mask(attn_mask, key_padding_mask, self.num_heads, q)
        out = self.out_proj(attend(q, k, v, self.attention_dtype, mask).transpose(1, 2).flatten(2))
        maps = _attention_maps(q, k, mask) if need_weights else None
        if maps is not None and average_attn_weights:
            maps = maps.mean(1)
        return (out if self.batch_first else out.transpose(0, 1)), maps

    def _unbatched(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        need_weights: bool,
        mask: Tensor | None,
        average: bool,
    ) -> tuple[Tensor, Tensor | None]:
        batch = 0 if self.batch_first else 1
        q = query.unsqueeze(batch)
        k = q if key is query else key.unsqueeze(batch)
        v = q if value is query else k if value is key else value.unsqueeze(batch)
        padding = None if padding is None else padding[None]
        out, maps = self(q, k, v, padding, need_weights, mask, average)
        return out.squeeze(batch), None if maps is None else maps[0]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.in_proj(query).chunk(3, -1)
        if key is query and value is query:
            return q, k, v
        # The projection is one stored weight, so another context costs a second product, and its q is dropped.
        _, k, v = self.in_proj(key).chunk(3, -1)
        return q, k, v if value is key else self.in_proj(value).chunk(3, -1)[2]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _additive_mask(mask: Tensor | None, padding: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """Both masks as one that is added to the logits; boolean ones mark the entries that are left out, as in
    nn.MultiheadAttention.
    """
    total = None
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, heads))  # (B·heads, L, S)
    for part in (mask, None if padding is None else padding[:, None, None]):
        if part is not None:
            added = part.to(like.dtype)
            if part.dtype == torch.bool:
                added = torch.zeros_like(added).masked_fill(part, float("-inf"))
            total = added if total is None else total + added
    return total


def _attention_maps(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return (logits if mask is None else logits + mask).softmax(-1)


def weight_rows(weight: Tensor, transposed: bool = False, groups: int = 1) -> Tensor:
    """A weight as (out, inputs): one row per output channel. A transposed convolution has (in, out/groups, kh, kw)."""
    if not transposed:
        return weight.flatten(1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)


def conv_transpose_weight(rows: Tensor, shape: tuple[int, ...], groups: int) -> Tensor:
    """Inverse of `weight_rows` for a transposed convolution of weight shape (in, out/groups, kh, kw)."""
    inputs, outputs = shape[0] // groups, shape[1]
    return rows.view(groups, outputs, inputs, *shape[2:]).transpose(1, 2).reshape(shape)
