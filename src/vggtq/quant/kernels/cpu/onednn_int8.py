"""W8A8 linear layers by oneDNN, where there are no native kernels, or none for a CPU with AMX."""

import functools

import torch
from torch import Tensor, nn

from vggtq.quant.kernels.cpu.layout import KernelLayoutLinear
from vggtq.quant.kernels.cpu.rules import int8_on_amx
from vggtq.quant.kernels.linear import unknown_range
from vggtq.quant.numbers.input_codes import (
    affine_codes,
    affine_token_codes,
    affine_token_parameters,
    static_codes,
    tensor_parameters,
    token_codes,
    token_scales,
)
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations

# Tokens that are rounded, multiplied and scaled together: intermediates stay in cache and in reused memory.
TOKENS_AT_A_TIME = 512


class OneDnnInt8Linear(KernelLayoutLinear):
    """W8A8 on the CPU: unsigned activation codes × signed weight codes into 32 bits, exactly.

    Instructions older than VNNI add pairs of products in 16 bits and saturate; there activations get 7 bits, with which two
    products fit (127 · 127 · 2 < 2^15). Asymmetric weights cost one rank-1 update: Σ x (w - z) = Σ x w - z Σ x, and so do
    zero points that tokens have of their own. One scale for all tokens is the kernel's, with the bias.
    """

    backend = "onednn_int8"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        # 128 less than the stored codes: symmetric codes as they are, asymmetric ones shifted for the kernel.
        codes = (packed.codes ^ 128).view(torch.int8)
        # The kernel's layout replaces the codes; to_dense() gives them back.
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", packed.zero_point)
        assert packed.scale is not None
        row_scale = packed.scale.to(torch.float32).expand(self.out_features, 1).flatten().contiguous()
        self._row_scale = row_scale
        self._no_zero = torch.zeros(self.out_features, dtype=torch.int64)
        # Σ w of every output, which a token's own zero point multiplies.
        self._sums = None
        if self._numbers.scale_granularity == "per_token" and not self._numbers.symmetric:
            self._sums = codes.sum(1).to(torch.float32) * row_scale
        self._correction = None
        if packed.zero_point is not None:
            shift = 0 if self.spec.symmetric else 128
            self._correction = (packed.zero_point.to(torch.float32) - shift).expand(
                self.out_features, 1
            ).flatten() * row_scale

    @property
    def rule(self) -> str:
        left = self.spec.symmetric and int8_on_amx((self.out_features, self.in_features))
        return "oneDNN on AMX instead of native kernels, which were built without it" if left else ""

    def stored_codes(self) -> Tensor:
        return self._weight.to_dense().t().contiguous().view(torch.uint8) ^ 128

    def resident_bytes(self) -> int:
        kept = [self.scale, self.zero_point, self._row_scale, self._no_zero, self._correction, self._sums]
        kept += [self.bias, self.get_buffer("activation_scale"), self.get_buffer("activation_zero_point")]
        return self._weight.numel() + sum(t.numel() * t.element_size() for t in kept if t is not None)

    @property
    def activation_bits(self) -> int:
        return min(self.activations.bits, onednn_activation_bits() or 8)

    @property
    def _numbers(self) -> Activations:
        """The rounding of inputs at run time, also before an input range is known."""
        return unknown_range(self.activations) if self.activations.mode == "static" else self.activations

    @property
    def notes(self) -> tuple[str, ...]:
        if self.activation_bits < self.activations.bits:
            return (
                f"activations have {self.activation_bits} bits: this CPU's int8 products saturate with {self.activations.bits}",
            )
        return ()

    def input_codes(self, rows: Tensor) -> tuple[Tensor, Tensor | float, Tensor | int]:
        """The activation codes that the kernel multiplies, (T, C) uint8, their scale and zero point.

        rows: (T, C) float32. Per token the scale is (T, 1) and so are asymmetric zero points, else both are one number.
        """
        bits, known = self.activation_bits, self.input_range
        if known is not None:
            return static_codes(rows, known.with_bits(bits))
        numbers = self._numbers
        if numbers.scale_granularity == "per_tensor":
            scale, zero = tensor_parameters(rows, bits, numbers.symmetric)
            return affine_codes(rows, scale, zero), scale, zero
        if numbers.symmetric:
            token_scale, middle = token_scales(rows, bits), 2 ** (bits - 1)
            return token_codes(rows, token_scale, middle, torch.uint8), token_scale, middle
        token_scale, token_zero = affine_token_parameters(rows, bits)
        return affine_token_codes(rows, token_scale, token_zero), token_scale, token_zero

    def multiply(self, rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # writing in place supports no gradients
            with torch.no_grad():
                return self.multiply(rows)
        if self.input_range is not None or self._numbers.scale_granularity == "per_tensor":
            return self._product_of_all(rows)
        count = -(-rows.shape[0] // TOKENS_AT_A_TIME)
        if count <= 1:
            return self._product(rows, None)
        step = -(-rows.shape[0] // count)
        out = rows.new_empty(rows.shape[0], self.out_features)
        for part, place in zip(rows.split(step), out.split(step), strict=True):
            self._product(part, place)
        return out

    def _product_of_all(self, rows: Tensor) -> Tensor:
        """(T, in) to (T, out) with one scale, which the kernel applies with the bias."""
        codes, scale, zero = self.input_codes(rows.to(torch.float32))
        bias = None if self.bias is None else self.bias.to(torch.float32)
        # fmt: off
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, scale, zero, self._weight, self._row_scale, self._no_zero, bias, 1.0, 0, torch.float32, "none", [], "")
        # fmt: on
        if self._correction is not None:
            inputs = (codes.sum(1, dtype=torch.int32) - zero * self.in_features).to(torch.float32)
            out.addr_(inputs, self._correction * scale, alpha=-1)
        return out.to(rows.dtype)

    def _product(self, rows: Tensor, out: Tensor | None) -> Tensor:
        """A few tokens, (t, in), to (t, out) in their dtype, each with its scale; written to `out` if there is one."""
        codes, scale, zero = self.input_codes(rows.to(torch.float32))
        assert isinstance(scale, Tensor)
        middle = 2 ** (self.activation_bits - 1)
        # fmt: off
        sums = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, middle, self._weight, self._row_scale, self._no_zero, None, 1.0, 0, torch.float32, "none", [], "")
        # fmt: on
        if isinstance(zero, Tensor):
            sums.addr_((zero - middle).flatten(), self._sums, alpha=-1)
        if self._correction is not None:
            total = codes.sum(1, dtype=torch.int32, keepdim=True).to(torch.float32)
            sums.addr_((total - zero * self.in_features).flatten(), self._correction, alpha=-1)
        place = out if out is not None and out.dtype == torch.float32 else sums
        if self.bias is None:
            torch.mul(sums, scale, out=place)
        else:
            torch.addcmul(self.bias.to(torch.float32), sums, scale, out=place)
        if out is None:
            return place.to(rows.dtype)
        return out if place is out else out.copy_(place)


@functools.cache
def onednn_activation_bits() -> int | None:
    """Activation bits with which oneDNN's int8 product is exact on this CPU: 8, 7, or None without the operator.

    Found by multiplying the codes that saturate first, because oneDNN may use other instructions than the CPU offers.
    """
    try:
        return next((bits for bits in (8, 7) if _onednn_is_exact(bits)), None)
    except (AttributeError, RuntimeError):
        return None


def _onednn_is_exact(bits: int) -> bool:
    zero, largest = 2 ** (bits - 1), 2**bits - 1
    inputs, outputs = 256, 64
    scale, no_zero = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    weight = torch.full((outputs, inputs), 127, dtype=torch.int8)
    weight[::2] = -128
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    exact = (largest - zero) * weight.to(torch.int64).sum(1)
    for tokens in (1, 5, 300):  # few and many rows take different code paths
        codes = torch.full((tokens, inputs), largest, dtype=torch.uint8)
        # fmt: off
        out = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, zero, packed, scale, no_zero, None, 1.0, 0, torch.float32, "none", [], "")
        # fmt: on
        if not torch.equal(out.to(torch.int64), exact.expand(tokens, -1)):
            return False
    return True
