"""Weight-only layers whose codes of 2, 4 or 8 bits become float in one pass, by the kernels of torch's embedding tables.

Such a kernel reads rows of packed codes that end in their own scale and bias (float16 with 2 and 4 bits, float32 with 8) and
writes scale · code + bias. Where a group's scale and its bias -scale · zero_point are exact in that format, a row is a group
and the kernel does everything; elsewhere a row is a row of the weight with scale 1, and is scaled afterwards.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vggtq.quant.blocked_linear import BlockedLinear, named_tensors, one_scale_per_row, scale_
from vggtq.quant.packed import PackedWeight
from vggtq.quant.rounding import block_of, group_columns
from vggtq.quant.scheme import Activations, Weights

_KERNELS = {2: "embedding_bag_2bit_unpack", 4: "embedding_bag_4bit_unpack", 8: "embedding_bag_byte_unpack"}


class EmbeddingRowsLinear(BlockedLinear):
    """rows: (R · rows_per_row, bytes of codes, scale, bias) uint8. `fused`: scales and zero points are kept there only."""

    rows: Tensor

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        assert packed.scale is not None
        self._scale_shape, self._scale_dtype = packed.scale.shape, packed.scale.dtype
        self._offset = 2 ** (self.spec.bits - 1) if self.spec.symmetric else 0
        self._inline_dtype = torch.float32 if self.spec.bits == 8 else torch.float16
        self._kernel = embedding_kernel(self.spec.bits)
        self._rows_per_row = packed.scale.shape[1]
        inline = self._inline(packed)
        self.fused = inline is not None
        if inline is None:
            self._rows_per_row = 1
            inline = torch.tensor([[1.0, -self._offset]], dtype=self._inline_dtype)
        codes = packed.codes.view(self.out_features * self._rows_per_row, -1)
        inline = inline.expand(codes.shape[0], 2).contiguous().view(torch.uint8)
        self.register_buffer("rows", torch.cat([codes, inline], dim=1), persistent=False)
        self.scale_apart = not self.fused and one_scale_per_row(packed.scale)
        self.register_buffer("scale", None if self.fused else packed.scale)
        self.register_buffer("zero_point", None if self.fused else packed.zero_point)

    @staticmethod
    def supports(
        spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
    ) -> bool:
        return (
            device.type == "cpu"
            and activations.mode == "none"
            and spec.format == "int"
            and embedding_kernel(spec.bits) is not None
        )

    def _inline(self, packed: PackedWeight) -> Tensor | None:
        """Scale and bias of every group, (R · groups, 2), or None where the kernel's rows cannot hold them exactly."""
        assert packed.scale is not None
        size, codes_per_byte = group_columns(self.in_features, self.spec), 8 // self.spec.bits
        if self.in_features % size or size % codes_per_byte:
            return None
        scale = packed.scale.to(torch.float32)
        zero = torch.full((1, 1), float(self._offset)) if packed.zero_point is None else packed.zero_point
        both = torch.stack([scale, -scale * zero], dim=-1)
        inline = both.to(self._inline_dtype)
        # Asymmetric 8 bits round the bias once, to float32, like every product; zero points must come back unharmed.
        exact = torch.equal(inline.to(torch.float32), both) and bool(torch.isfinite(both).all())
        if not exact or bool((scale < torch.finfo(self._inline_dtype).tiny).any()):
            return None
        return inline.expand(self.out_features, -1, 2).reshape(-1, 2)

    def weight_tensors(self) -> dict[str, Tensor]:
        inline_bytes = 2 * self._inline_dtype.itemsize
        codes = self.rows[:, :-inline_bytes].reshape(self.out_features, -1)
        if not self.fused:
            return named_tensors(codes, self.scale, self.zero_point)
        inline = (
            self.rows[:, -inline_bytes:]
            .clone(memory_format=torch.contiguous_format)
            .view(self._inline_dtype)
            .to(torch.float32)
        )
        scale, bias = (part.view(self.out_features, -1)[: self._scale_shape[0]] for part in inline.unbind(1))
        zero = None if self.spec.symmetric else torch.round(-bias / scale).to(torch.uint8)
        return named_tensors(codes, scale.to(self._scale_dtype), zero)

    def dequantized(self, block: slice, scaled: bool = True) -> Tensor:
        assert self._kernel is not None
        count, per_row = block.stop - block.start, self._rows_per_row
        rows = self.rows
        if count != self.out_features:
            rows = rows[block.start * per_row : block.stop * per_row]
        weight = self._kernel(rows)
        if weight.shape[1] != self.in_features:
            weight = weight.view(count, -1)[:, : self.in_features]
        if self.fused:
            return weight
        zero = None if self.zero_point is None else block_of(self.zero_point, block)
        return scale_(weight, block_of(self.scale, block) if scaled else None, zero, self.spec)


def embedding_kernel(bits: int) -> Callable[[Tensor], Tensor] | None:
    """The operator that turns rows of packed codes, scale and bias into float32, if this torch has one for these bits."""
    kernel: Callable[[Tensor], Tensor] | None = None
    if bits in _KERNELS and hasattr(torch.ops.quantized, _KERNELS[bits]):
        kernel = getattr(torch.ops.quantized, _KERNELS[bits]).default
    return kernel
