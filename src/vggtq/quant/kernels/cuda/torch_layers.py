"""Linear layers on what torch itself has for CUDA: half-precision weights."""

from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.kernels.cuda.support import output_dtype
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations


class CudaHalfLinear(QuantLinear):
    """float16 or bfloat16 weights and products on CUDA; inputs are rounded to the weights' dtype."""

    backend = "cuda_half"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self.register_buffer("codes", packed.codes)

    def multiply(self, rows: Tensor) -> Tensor:
        weight = self.get_buffer("codes")
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(rows.to(weight.dtype), weight, bias).to(output_dtype(rows.dtype, rows.device))
