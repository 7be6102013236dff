"""Linear layers on what torch itself has for CUDA: half-precision weights, and int8 products where Triton does not run."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.activations import token_scales
from vggtq.quant.cuda_support import output_dtype, triton_problem
from vggtq.quant.linear import QuantLinear
from vggtq.quant.packed import PackedWeight
from vggtq.quant.scheme import Activations, Weights


class IntMatmulLinear(QuantLinear):
    """W8A8 through torch._int_mm (int8 × int8 → int32), scales applied in passes of their own over the sums.

    For CUDA without Triton, whose kernel needs no such passes (`TritonInt8Linear`); the CPU's _int_mm is only slow.
    """

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
            and activations.per_token
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
        scale = token_scales(rows, self.activations.bits)
        codes = torch.round(rows / scale).to(torch.int8)
        if (missing := self._MIN_ROWS - codes.shape[0]) > 0:
            codes = F.pad(codes, (0, 0, 0, missing))
        sums = torch._int_mm(codes, self.get_buffer("codes").t())[: rows.shape[0]]
        out = (sums * scale).mul_(self.scale.to(torch.float32).flatten())
        return (out if self.bias is None else out.add_(self.bias)).to(output_dtype(rows.dtype, rows.device))

    @property
    def notes(self) -> tuple[str, ...]:
        return () if (problem := triton_problem()) is None else (problem,)


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
        return spec.format in ("float16", "bfloat16") and device.type == "cuda"

    def weight_tensors(self) -> dict[str, Tensor]:
        return {"codes": self.get_buffer("codes")}

    def multiply(self, rows: Tensor) -> Tensor:
        weight = self.get_buffer("codes")
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(rows.to(weight.dtype), weight, bias).to(output_dtype(rows.dtype, rows.device))
