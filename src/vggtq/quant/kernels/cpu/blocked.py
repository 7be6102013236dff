"""Weight-only layers without a kernel: a block of output rows at a time becomes float and is multiplied."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.numbers.rounding import row_blocks


class BlockedLinear(ReferenceLinear):
    """Any weight with float inputs. Products are those of float weights, which only a few are at a time."""

    backend = "blocked"
    simulated = False

    def dequantized_block(self, block: slice, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, (r, in)."""
        return self.spec.entry.computes.decode(self.packed(), block).to(dtype)

    def multiply(self, rows: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        parts = [
            F.linear(rows, self.dequantized_block(block, rows.dtype), None if bias is None else bias[block])
            for block in row_blocks(self.get_buffer("codes"))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
