"""LayerNorm and GELU in one kernel with the rounding of what they hand to a W8A8 or FP8 layer, in eager mode on CUDA.

For transformer blocks with the names of timm and DINOv2: norm1 → attn.qkv and norm2 → mlp.fc1 → GELU → mlp.fc2. torch.compile
fuses the same by itself.
"""

from torch import Tensor, nn

from vggtq.network.declared import prenorm_blocks
from vggtq.quant.kernels.cuda.rounded_rows import QuantizedRows, gelu_rows, layer_norm_rows
from vggtq.quant.kernels.cuda.triton_layers import DynamicLinear


class QuantizingLayerNorm(nn.Module):
    """LayerNorm whose only reader is a quantized layer, which gets codes. Parameters keep their names."""

    def __init__(self, norm: nn.LayerNorm, reader: DynamicLinear) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.numbers = reader.activations

    def forward(self, x: Tensor) -> QuantizedRows:
        return layer_norm_rows(x, self.weight, self.bias, self.eps, self.numbers)


class QuantizedMlp(nn.Module):
    """fc2(GELU(fc1(x))) with fc2's input rounded where GELU is computed."""

    def __init__(self, fc1: DynamicLinear, fc2: DynamicLinear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        return self.fc2(gelu_rows(self.fc1(x), self.fc2.activations))


def fuse_blocks_(model: nn.Module) -> list[str]:
    """Fuses what it can in every block that declares itself as pre-norm, in place.

    Returns the dotted names of the norms and MLPs that it replaced. Norms have to be over the last axis and to have no other
    reader. What is not quantized on CUDA with dynamic activations stays as it is.
    """
    fused = []
    for name, block in prenorm_blocks(model):
        pairs = (("norm1", block.get_submodule("attn.qkv")), ("norm2", block.get_submodule("mlp.fc1")))
        for norm_name, reader in pairs:
            norm = block.get_submodule(norm_name)
            if isinstance(norm, nn.LayerNorm) and isinstance(reader, DynamicLinear):
                block.add_module(norm_name, QuantizingLayerNorm(norm, reader).train(norm.training))
                fused.append(f"{name}.{norm_name}")
        mlp = block.get_submodule("mlp")
        fc1, fc2 = mlp.get_submodule("fc1"), mlp.get_submodule("fc2")
        if isinstance(mlp, QuantizedMlp):
            continue
        if isinstance(fc1, DynamicLinear) and isinstance(fc2, DynamicLinear):
            block.add_module("mlp", QuantizedMlp(fc1, fc2).train(mlp.training))
            fused.append(f"{name}.mlp")
    return fused
