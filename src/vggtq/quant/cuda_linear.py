"""Linear layers on what torch has for packed weights on CUDA: int8 products and half-precision weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.activations import token_codes, token_scales
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight
from vggtq.quant.scheme import Activations, Weights


class IntMatmulLinear(QuantLinear):
    """W8A8 through torch._int_mm (int8 × int8 → int32), scales applied after. For CUDA; the CPU's version is only slow."""

    backend = "int_mm"
    _MIN_ROWS = 17  # what the CUDA kernel asks for

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self.register_buffer("codes", packed.integer_codes().to(torch.int8))
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", None)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return (
            device.type == "cuda"
            and activations.mode == "dynamic"
            and (spec.format, spec.bits, spec.symmetric) == ("int", 8, True)
            and (spec.granularity != "group" or spec.group_size is None)
            and shape[0] % 8 == 0
            and shape[1] % 8 == 0
        )

    def weight_tensors(self) -> dict[str, Tensor]:
        return {
            "codes": (self.get_buffer("codes").to(torch.int16) + 128).to(torch.uint8),
            "scale": self.scale,
        }

    def multiply(self, rows: Tensor) -> Tensor:
        rows32 = rows.to(torch.float32)
        scale = token_scales(rows32, self.activations.bits)
        codes = (token_codes(rows32, scale, 128, torch.int16) - 128).to(torch.int8)
        if (missing := self._MIN_ROWS - codes.shape[0]) > 0:
            codes = F.pad(codes, (0, 0, 0, missing))
        sums = torch._int_mm(codes, self.get_buffer("codes").t())[: rows.shape[0]]
        out = sums.to(torch.float32) * scale * self.scale.to(torch.float32).flatten()
        return (out if self.bias is None else out + self.bias).to(rows.dtype)


class CudaHalfLinear(QuantLinear):
    """float16 or bfloat16 weights and products on CUDA; inputs are rounded to the weights' dtype."""

    backend = "cuda_half"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self.register_buffer("codes", packed.codes)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return spec.is_float and device.type == "cuda"

    def weight_tensors(self) -> dict[str, Tensor]:
        return {"codes": self.get_buffer("codes")}

    def multiply(self, rows: Tensor) -> Tensor:
        weight = self.get_buffer("codes")
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(rows.to(weight.dtype), weight, bias).to(rows.dtype)
