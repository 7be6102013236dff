"""Weight-only layers on the CPU: packed weights stay as they are, a block of them at a time becomes float and is multiplied.

Each block of output rows is dequantized, multiplied in float, and written straight into its columns of the output; then its
float values are dropped. This is how weight-only numbers are meant to run: they save memory, and their products are those of
float weights. The classes differ in how codes lie in memory and become float; `blocked` is the backend of them all.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.quant.kernel_layout import KernelLayoutLinear
from vggtq.quant.rounding import block_of, group_columns
from vggtq.quant.scheme import Weights

# Weights that are float at the same time: 16 MiB of float32. Each block reads and rearranges its inputs anew, so blocks under
# about 1024 rows cost 5 to 10 %; products of few rows are memory-bound and want blocks that stay in the cache instead.
BLOCK_WEIGHTS, BLOCK_WEIGHTS_OF_FEW_ROWS = 2**22, 2**20
FEW_ROWS = 32
# For few rows oneDNN multiplies a block of this size or larger up to 3 times as fast as MKL, and smaller ones more slowly.
ONEDNN_BLOCK = 2**18


class BlockedLinear(KernelLayoutLinear):
    """What the layouts share: the loop over blocks, and a float product in the inputs' dtype."""

    backend = "blocked"
    scale_apart: bool = False
    """Whether there is one float32 scale for each output row that can be left out of `dequantized`."""

    @abstractmethod
    def dequantized(self, block: slice, scaled: bool = True) -> Tensor:
        """Rows of the weight, (r, in) float32. Without `scaled`, which only `scale_apart` allows, codes less zero points.

        block: as `blocks` gives them. The result is valid until the next call on this thread.
        """

    @property
    def block_rows(self) -> int:
        """Blocks hold a multiple of this many rows."""
        return 1

    def blocks(self, weights: int = BLOCK_WEIGHTS) -> Iterator[slice]:
        """Slices of output rows, of equal size, that hold about `weights` weights at most."""
        count = max(1, -(-self.out_features * self.in_features // weights))
        step = -(-max(1, -(-self.out_features // count)) // self.block_rows) * self.block_rows
        for start in range(0, self.out_features, step):
            yield slice(start, min(start + step, self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.out_features * self.in_features
        many = x.numel() >= FEW_ROWS * self.in_features
        if self.scale_apart or weights > BLOCK_WEIGHTS or not many or torch.is_grad_enabled():
            return super().forward(x)
        # One block: the operator that FP32 layers call, for what surrounds it costs as much as small products themselves.
        weight = self.dequantized(slice(0, self.out_features)).to(x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def multiply(self, rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # what is written in place knows no gradients
            with torch.no_grad():
                return self.multiply(rows)
        limit = BLOCK_WEIGHTS_OF_FEW_ROWS if rows.shape[0] < FEW_ROWS else BLOCK_WEIGHTS
        if self.out_features * self.in_features <= limit:
            return self._product(rows, slice(0, self.out_features), self.bias, None)
        out = rows.new_empty(rows.shape[0], self.out_features)
        bias = self.bias
        for block in self.blocks(limit):
            self._product(rows, block, None if bias is None else bias[block], out[:, block])
        return out

    def _product(self, rows: Tensor, block: slice, bias: Tensor | None, out: Tensor | None) -> Tensor:
        """rows @ ŵ[block]ᵀ + bias, (T, r), written to `out` if there is one. bias: (r,)."""
        dtype = rows.dtype
        # Fewer products than weights: scale the products. Only float32 has the range for unscaled sums.
        later = rows.shape[0] <= self.in_features and dtype == torch.float32 and self.scale_apart
        weight = self.dequantized(block, scaled=not later)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        if _by_onednn(rows, weight):
            # fmt: off
            product = torch.ops.mkldnn._linear_pointwise(rows, weight, None if later else bias, "none", [], "")
            # fmt: on
            out = product if out is None else out.copy_(product)
        elif bias is None or later:
            out = torch.mm(rows, weight.t(), out=out)
        else:
            out = torch.addmm(bias, rows, weight.t(), out=out)
        if not later:
            return out
        scale = block_of(self.scale, block).t()
        return out.mul_(scale) if bias is None else torch.addcmul(bias, out, scale, out=out)


def _by_onednn(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.shape[0] < FEW_ROWS
        and weight.numel() >= ONEDNN_BLOCK
        and rows.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


def scale_(rows: Tensor, scale: Tensor | None, zero: Tensor | float | None, spec: Weights) -> Tensor:
    """rows = scale · (rows - zero) in place. rows: (r, C) float32; scale, zero: (r or 1, groups), or nothing to do."""
    if zero is not None:
        by_group(torch.sub, rows, zero, spec)
    if scale is not None:
        by_group(torch.mul, rows, scale.to(torch.float32), spec)
    return rows


def by_group(
    operation: Callable[..., Tensor], rows: Tensor, parameter: Tensor | float, spec: Weights
) -> None:
    """rows = operation(rows, parameter) in place; parameter: (r or 1, groups), each for `group_columns` columns."""
    if not isinstance(parameter, Tensor) or parameter.shape[1] == 1:
        operation(rows, parameter, out=rows)
        return
    size = group_columns(rows.shape[1], spec)
    whole = rows.shape[1] // size
    groups = rows[:, : whole * size].unflatten(1, (whole, size))
    operation(groups, parameter[:, :whole, None], out=groups)
    if whole * size < rows.shape[1]:  # the last group of a row may be shorter
        tail = rows[:, whole * size :]
        operation(tail, parameter[:, whole:], out=tail)


def one_scale_per_row(scale: Tensor | None) -> bool:
    return scale is not None and scale.shape[1] == 1 and scale.dtype == torch.float32


def named_tensors(codes: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> dict[str, Tensor]:
    """As `PackedWeight.tensors` names them."""
    named = {"codes": codes, "scale": scale, "zero_point": zero_point}
    return {name: tensor for name, tensor in named.items() if tensor is not None}
