"""What a quantized VGGT on CUDA computes in one kernel: LayerNorm and GELU of its blocks with the rounding of their outputs."""

from torch import nn

from vggtq.models.vit import Block
from vggtq.quant.cuda_fuse import fuse_blocks_
from vggtq.quant.quantize import Quantization


def fuse_(module: nn.Module, quantization: Quantization) -> None:
    """Fuses what W8A8 and FP8 layers on Triton's kernels allow, in place, and enters it; elsewhere nothing changes.

    The codes are those of separate kernels up to the last bit of LayerNorm and GELU. Names of parameters stay.
    """
    quantization.fused = fuse_blocks_(module, Block)
    if quantization.fused:
        quantization.notes.append(
            f"LayerNorm and GELU round what they hand on in one kernel in {len(quantization.fused)} places"
        )
