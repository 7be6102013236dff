"""The kernel table: which backend computes which numbers where."""

import torch
from torch import nn

from vggtq.quant.blocked_float4 import Float4Linear
from vggtq.quant.blocked_planes import PlanesLinear
from vggtq.quant.blocked_rows import EmbeddingRowsLinear
from vggtq.quant.blocked_wide import WideLinear
from vggtq.quant.cpu_linear import FbgemmHalfLinear, OneDnnInt8Linear
from vggtq.quant.cuda_linear import CudaHalfLinear, IntMatmulLinear
from vggtq.quant.cuda_triton import Float8Linear, PackedWeightLinear, TritonInt8Linear
from vggtq.quant.fbgemm_int8 import FbgemmInt8Linear
from vggtq.quant.linear import QuantLinear, ReferenceLinear
from vggtq.quant.packed import PackedWeight
from vggtq.quant.scheme import Activations, Weights

LINEAR_BACKENDS: tuple[type[QuantLinear], ...] = (
    FbgemmInt8Linear,
    OneDnnInt8Linear,
    TritonInt8Linear,
    IntMatmulLinear,
    Float8Linear,
    PackedWeightLinear,
    FbgemmHalfLinear,
    CudaHalfLinear,
    EmbeddingRowsLinear,
    PlanesLinear,
    WideLinear,
    Float4Linear,
    ReferenceLinear,
)


def linear_backend(
    spec: Weights, activations: Activations, shape: tuple[int, int], device: torch.device
) -> type[QuantLinear]:
    """The first backend that computes these numbers here; `reference` takes whatever is left."""
    return next(b for b in LINEAR_BACKENDS if b.supports(spec, activations, shape, device))


def quantized_linear(
    packed: PackedWeight, bias: nn.Parameter | None, activations: Activations
) -> QuantLinear:
    """The fastest honest layer for these numbers on the device that the weight is on."""
    shape, device = (packed.codes.shape[0], packed.columns), packed.codes.device
    return linear_backend(packed.spec, activations, shape, device)(packed, bias, activations)
