"""Weight-only layers of 4-bit floats on the CPU: a table turns a byte into its two elements, then blocks are scaled."""

import torch
from torch import Tensor, nn

from vggtq.quant.blocked_linear import BlockedLinear, by_group
from vggtq.quant.float4 import block_scales, e2m1_table
from vggtq.quant.numbers import FLOAT4
from vggtq.quant.packed import PackedWeight
from vggtq.quant.rounding import block_of
from vggtq.quant.scheme import Activations, Weights
from vggtq.quant.scratch import scratch


class Float4Linear(BlockedLinear):
    """codes: (R, ceil(C / 2)) uint8 as they are stored, the first element in the low half."""

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        # pairs: (256, 2) float32, the elements of every byte.
        table = e2m1_table(packed.codes.device)
        low, high = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="xy")
        self._pairs = torch.stack([table[low.flatten()], table[high.flatten()]], dim=1).contiguous()

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return device.type == "cpu" and activations.mode == "none" and spec.format in FLOAT4

    def weight_tensors(self) -> dict[str, Tensor]:
        return {
            name: self.get_buffer(name)
            for name in ("codes", "scale", "tensor_scale")
            if name in self._buffers
        }

    def resident_bytes(self) -> int:
        return super().resident_bytes() + self._pairs.numel() * self._pairs.element_size()

    def dequantized(self, block: slice, scaled: bool = True) -> Tensor:
        codes = self.get_buffer("codes")[block]
        index = scratch("pairs", codes.numel(), torch.int32).copy_(codes.flatten())
        weight = scratch("weight", 2 * codes.numel(), torch.float32)
        torch.index_select(self._pairs, 0, index, out=weight.view(-1, 2))
        rows = weight.view(len(codes), -1)[:, : self.in_features]
        scale = block_scales(block_of(self.scale, block), self._buffers.get("tensor_scale"))
        by_group(torch.mul, rows, scale, self.spec)
        return rows
