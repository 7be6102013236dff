"""PyTorch's own dynamic quantization (`torch.ao.quantization.quantize_dynamic`), to compare with."""

import warnings

import torch
from torch import Tensor, nn

from vggtq.quant.kernels.cpu.layout import KernelLayoutLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations


class TorchDynamicLinear(KernelLayoutLinear):
    """`torch.ops.quantized.linear_dynamic`: one scale and zero point for all inputs of a call.

    PyTorch rounds inputs to 7 bits on every CPU (`reduce_range`), so that no instruction set can saturate.
    """

    backend = "torch_dynamic"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        assert packed.scale is not None
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", None)
        self._prepack(packed.codes)

    def _prepack(self, codes: Tensor) -> None:
        """Lays out codes (out, in) uint8 for PyTorch's kernel, which keeps a copy of the bias."""
        # a copy, since the bias may be rounded or loaded in place later
        self._packed_bias = None if self.bias is None else self.bias.detach().to(torch.float32, copy=True)
        with warnings.catch_warnings():
            # PyTorch will drop such tensors; as long as it has them, this is what its users run.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            signed = (codes ^ 128).view(torch.int8)
            weight = torch._make_per_tensor_quantized_tensor(signed, float(self.scale), 0)
            self._weight = torch.ops.quantized.linear_prepack(weight, self._packed_bias)

    @property
    def activation_bits(self) -> int:
        return 7

    @property
    def notes(self) -> tuple[str, ...]:
        return ("PyTorch rounds activations to 7 bits on every CPU",)

    def stored_codes(self) -> Tensor:
        weight: Tensor = torch.ops.quantized.linear_unpack(self._weight)[0]
        return weight.int_repr().view(torch.uint8) ^ 128

    def resident_bytes(self) -> int:
        return self.out_features * self.in_features + super().resident_bytes()

    def multiply(self, rows: Tensor) -> Tensor:
        bias, packed = self.bias, self._packed_bias
        if bias is not None and (packed is None or not torch.equal(bias.float(), packed)):
            self._prepack(self.stored_codes())
        out: Tensor = torch.ops.quantized.linear_dynamic(rows.float().contiguous(), self._weight, True)
        return out.to(rows.dtype)
