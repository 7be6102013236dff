"""Weight-only layers whose numbers torch converts to float by itself: 16- and 8-bit floats, and integers of 8 and 16 bits."""

import torch
from torch import Tensor, nn

from vggtq.quant.blocked_linear import BlockedLinear, named_tensors, one_scale_per_row, scale_
from vggtq.quant.cpu_rules import half_in_blocks
from vggtq.quant.numbers import FLOAT4
from vggtq.quant.packed import PackedWeight
from vggtq.quant.rounding import block_of
from vggtq.quant.scheme import Activations, Weights
from vggtq.quant.scratch import scratch


class WideLinear(BlockedLinear):
    """values: (R, C), floats as they are stored, integers as signed ones (the codes less half their range)."""

    values: Tensor

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        values = packed.codes
        if self.spec.format == "int":
            values = (
                (values ^ 0x80).view(torch.int8) if self.spec.bits == 8 else values.view(torch.int16) ^ -32768
            )
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", packed.zero_point)
        self.scale_apart = one_scale_per_row(packed.scale)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return (
            device.type == "cpu"
            and activations.mode == "none"
            and spec.format not in FLOAT4
            and (spec.format != "int" or spec.bits in (8, 16))
        )

    @property
    def rule(self) -> str:
        return (half_in_blocks((self.out_features, self.in_features)) or "") if self._halves else ""

    @property
    def _halves(self) -> bool:
        return self.spec.format == "float16" and torch.backends.quantized.engine in ("x86", "fbgemm")

    def weight_tensors(self) -> dict[str, Tensor]:
        codes = self.values
        if self.spec.format == "int":
            codes = (
                codes.view(torch.uint8) ^ 0x80 if self.spec.bits == 8 else (codes ^ -32768).view(torch.uint8)
            )
        return named_tensors(codes, self.scale, self.zero_point)

    def dequantized(self, block: slice, scaled: bool = True) -> Tensor:
        values = self.values[block]
        weight = scratch("weight", values.numel(), torch.float32).view(values.shape).copy_(values)
        zero = None
        if self.zero_point is not None:
            zero = block_of(self.zero_point, block).to(torch.float32) - 2 ** (self.spec.bits - 1)
        scale = block_of(self.scale, block) if scaled and self.scale is not None else None
        return scale_(weight, scale, zero, self.spec)
