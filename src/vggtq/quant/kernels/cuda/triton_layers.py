"""Linear layers on Triton's kernels for CUDA: W8A8, FP8 and packed integer weights.

All take CUDA graphs and torch.compile: nothing waits for the host, and every kernel is an operator that tracing passes by.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.quant.kernels.cuda.rounded_rows import QuantizedRows, quantize_rows
from vggtq.quant.kernels.cuda.support import HOPPER, capability, output_dtype
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.activations import Activations


class CudaLinear(QuantLinear):
    """A weight in CUDA memory, for kernels that read no other."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        here = self.get_buffer("codes").device.type
        if here == "cuda" and fn(torch.zeros((), device=here)).device.type != "cuda":
            raise RuntimeError(
                f"a layer on {self.backend} cannot leave the GPU; quantize_ the model after moving it"
            )
        return super()._apply(fn, recurse)


class DynamicLinear(CudaLinear):
    """Inputs rounded per token, products of 8-bit codes. Takes rows that are quantized already, too (see `cuda_fuse`)."""

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        rows = x if isinstance(x, QuantizedRows) else quantize_rows(x, self.activations)
        out = self.product(rows, output_dtype(rows.dtype, rows.codes.device))
        return out.view(*rows.shape[:-1], self.out_features)

    def multiply(self, rows: Tensor) -> Tensor:
        return self.forward(rows)

    @abstractmethod
    def product(self, rows: QuantizedRows, dtype: torch.dtype) -> Tensor:
        """(T, out_features) in `dtype`, with the bias added."""

    def scaled_product(self, rows: QuantizedRows, dtype: torch.dtype) -> Tensor:
        """`product` by Triton's kernel, for all shapes and dtypes."""
        from vggtq.quant.kernels.cuda.triton_matmul import scaled_matmul

        zero = self.zero_point
        sums = None if zero is None else rows.sums
        weight = self.get_buffer("codes")
        return scaled_matmul(rows.codes, rows.scale, sums, weight, self.scale, zero, self.bias, dtype)


class TritonInt8Linear(DynamicLinear):
    """W8A8: int8 × int8 into int32, exactly; scales, zero points and bias are applied before the result is stored."""

    backend = "triton_int8"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        # Stored bytes are codes + 128 (symmetric) or have their zero point as it is; either way the kernel reads byte - 128.
        self.register_buffer("codes", (packed.codes ^ 0x80).view(torch.int8))
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", packed.zero_point)

    def stored_codes(self) -> Tensor:
        return self.get_buffer("codes").view(torch.uint8) ^ 0x80

    def product(self, rows: QuantizedRows, dtype: torch.dtype) -> Tensor:
        return self.scaled_product(rows, dtype)


class Float8Linear(DynamicLinear):
    """FP8: e4m3 × e4m3 by cuBLAS or CUTLASS (torch._scaled_mm) where it can, else by Triton's kernel.

    torch._scaled_mm writes bfloat16, needs Hopper and sizes that are multiples of 16, and is slow for few rows (vLLM pads its
    inputs to 17). Both sum with the tensor cores' fast accumulation, which keeps about 14 bits of each partial sum: much
    beside e4m3's own 4.
    """

    backend = "cuda_fp8"
    FEW_ROWS = 16

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", None)
        sixteens = self.in_features % 16 == 0 and self.out_features % 16 == 0
        self.has_scaled_mm = sixteens and capability(packed.codes.device) >= HOPPER

    def product(self, rows: QuantizedRows, dtype: torch.dtype) -> Tensor:
        few = rows.codes.shape[0] <= self.FEW_ROWS
        if few or not self.has_scaled_mm or dtype != torch.bfloat16:
            return self.scaled_product(rows, dtype)
        return torch._scaled_mm(
            rows.codes,
            self.get_buffer("codes").t(),
            scale_a=rows.scale,
            scale_b=self.scale.expand(self.out_features, 1).contiguous().view(1, -1),
            bias=None if self.bias is None else self.bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


class PackedWeightLinear(CudaLinear):
    """Integer weights of 2 to 8 bits, float inputs. Few rows are multiplied straight from the codes; for more, the layer's
    weight is dequantized in the inputs' dtype, once per call, and cuBLAS multiplies.
    """

    backend = "triton_weights"
    # Up to here one tile holds all rows and every weight is dequantized once; beyond, dequantizing apart costs less.
    FEW_ROWS = 64

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        for name in ("codes", "scale", "zero_point"):
            self.register_buffer(name, getattr(packed, name))
        columns = group_columns(self.in_features, self.spec)
        self.group = 0 if columns == self.in_features else columns

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"more than {self.FEW_ROWS} rows: dequantized once per call, then a float product",)

    def multiply(self, rows: Tensor) -> Tensor:
        rows = rows.to(output_dtype(rows.dtype, rows.device))
        return self.few_rows(rows) if rows.shape[0] <= self.FEW_ROWS else self.many_rows(rows)

    def few_rows(self, rows: Tensor) -> Tensor:
        from vggtq.quant.kernels.cuda.triton_weights import few_rows_linear

        codes, bits = self.get_buffer("codes"), self.spec.bits
        return few_rows_linear(rows, codes, self.scale, self.zero_point, self.bias, bits, self.group)

    def many_rows(self, rows: Tensor) -> Tensor:
        from vggtq.quant.kernels.cuda.triton_weights import dequantize

        codes, bits = self.get_buffer("codes"), self.spec.bits
        weight = dequantize(
            codes, self.scale, self.zero_point, bits, self.in_features, self.group, rows.dtype
        )
        return F.linear(rows, weight, None if self.bias is None else self.bias.to(rows.dtype))
