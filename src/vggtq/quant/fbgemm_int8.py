"""W8A8 on the CPU by fbgemm, which rounds inputs while it packs them for the product.

y = p · Σ (c - z) (w - z_w) · s_w / (2^(b-1)-1) + bias with p = max|row| and c = round(x / p · (2^(b-1)-1)) + z. Rows are
divided by their peaks, so that one scale for all tokens, which the kernel takes, is one scale per token. fbgemm subtracts the
weights' zero points by itself. Its layout pads inputs to a multiple of 512.
"""

import functools
import warnings

import torch
from torch import Tensor, nn

from vggtq.quant.activations import row_peaks
from vggtq.quant.cpu_rules import int8_by_fbgemm
from vggtq.quant.kernel_layout import KernelLayoutLinear
from vggtq.quant.packed import PackedWeight
from vggtq.quant.scheme import Activations, Weights
from vggtq.quant.scratch import scratch

PADDED_INPUTS = 512  # fbgemm's largest block of inputs; with AVX-512 it is smaller
REUSED_FROM = 2**20  # inputs; smaller ones are divided faster into memory that the allocator has at hand
BYTES_PER_OUTPUT = 12  # scale, zero point and sum of weights, which fbgemm keeps


class FbgemmInt8Linear(KernelLayoutLinear):
    """Unsigned activation codes × signed weight codes into 32 bits, exactly; 7 bits of activations where 8 would saturate."""

    backend = "fbgemm_int8"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        assert packed.scale is not None
        codes, zero = packed.integer_codes(), torch.zeros(self.out_features, dtype=torch.int64)
        if packed.zero_point is not None:
            codes = codes - 128
            zero = (packed.zero_point.to(torch.int64) - 128).expand(self.out_features, 1).flatten()
        scale = packed.scale.to(torch.float64).expand(self.out_features, 1).flatten()
        self._weight = prepacked(codes.to(torch.int8), scale, zero)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("zero_point", packed.zero_point)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return (
            device.type == "cpu"
            and activations.per_token
            and (spec.format, spec.bits) == ("int", 8)
            and (spec.granularity != "group" or spec.group_size is None)
            and fbgemm_activation_bits() is not None
            and _rule(spec, shape) is not None
        )

    @property
    def rule(self) -> str:
        return _rule(self.spec, (self.out_features, self.in_features)) or ""

    def weight_tensors(self) -> dict[str, Tensor]:
        codes = torch.ops.quantized.linear_unpack(self._weight)[0].int_repr()
        named = {"codes": codes.view(torch.uint8) ^ 0x80, "scale": self.scale}
        return named if self.zero_point is None else named | {"zero_point": self.zero_point}

    def resident_bytes(self) -> int:
        columns = -(-self.in_features // PADDED_INPUTS) * PADDED_INPUTS
        kept = [self.scale, self.zero_point, self.bias]
        return self.out_features * (columns + BYTES_PER_OUTPUT) + sum(
            t.numel() * t.element_size() for t in kept if t is not None
        )

    @property
    def activation_bits(self) -> int:
        return min(self.activations.bits, fbgemm_activation_bits() or 8)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.activation_bits < self.activations.bits:
            return (
                f"activations have {self.activation_bits} bits: this CPU's int8 products saturate with {self.activations.bits}",
            )
        return ()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out). The kernel takes leading axes; reshaping them in Python costs up to 15 % of a small product."""
        if torch.is_grad_enabled():  # what is written in place knows no gradients
            with torch.no_grad():
                return self.forward(x)
        if x.ndim == 1:
            return self.forward(x[None])[0]
        rows = x.to(torch.float32)
        peak = row_peaks(rows)
        bits = self.activation_bits
        out = fbgemm_product(_divided(rows, peak), 1 / (2 ** (bits - 1) - 1), 2 ** (bits - 1), self._weight)
        bias = self.bias
        if bias is None:
            return out.mul_(peak).to(x.dtype)
        return torch.addcmul(bias.to(torch.float32), out, peak, out=out).to(x.dtype)

    def multiply(self, rows: Tensor) -> Tensor:
        return self.forward(rows)


def _divided(rows: Tensor, peak: Tensor) -> Tensor:
    if rows.numel() <= REUSED_FROM:
        return rows / peak
    return torch.div(rows, peak, out=scratch("activations", rows.numel(), torch.float32).view(rows.shape))


def _rule(spec: Weights, shape: tuple[int, int]) -> str | None:
    return int8_by_fbgemm(spec, shape, saturates=fbgemm_activation_bits() == 7)


def prepacked(codes: Tensor, scale: Tensor, zero: Tensor) -> object:
    """codes: (out, in) int8, scale: (out,) float64, zero: (out,) int64. In fbgemm's layout, without bias."""
    with warnings.catch_warnings():
        # torch means to drop tensors of codes; where it has, the probe below finds no operator.
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(codes, scale, zero, 0)
        return torch.ops.quantized.linear_prepack(weight, None)


def fbgemm_product(inputs: Tensor, scale: float, zero: int, weight: object) -> Tensor:
    """(T, in) float32, rounded to codes of this scale and zero point, times the weight: (T, out) float32."""
    out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        inputs, scale, zero, weight
    )
    return out


@functools.cache
def fbgemm_activation_bits() -> int | None:
    """Activation bits with which fbgemm's int8 product is exact on this CPU: 8, 7, or None without the operator.

    Found by multiplying the codes that saturate first: fbgemm may use other instructions than oneDNN does.
    """
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return None
    try:
        return next((bits for bits in (8, 7) if _is_exact(bits)), None)
    except (AttributeError, RuntimeError):
        return None


def _is_exact(bits: int) -> bool:
    zero, largest = 2 ** (bits - 1), 2**bits - 1
    inputs, outputs = 256, 64
    codes = torch.full((outputs, inputs), 127, dtype=torch.int8)
    codes[::2] = -128
    ones, zeros = torch.ones(outputs, dtype=torch.float64), torch.zeros(outputs, dtype=torch.int64)
    weight = prepacked(codes, ones, zeros)
    exact = (largest - zero) * codes.to(torch.int64).sum(1)
    for tokens in (1, 5, 300):  # few and many rows take different code paths
        out = fbgemm_product(torch.full((tokens, inputs), float(largest - zero)), 1.0, zero, weight)
        if not torch.equal(out.to(torch.int64), exact.expand(tokens, -1)):
            return False
    return True
