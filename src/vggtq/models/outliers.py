"""Outlier channels that change nothing: a few norm gains grow, and the next layer's weights shrink by the same factor.

Large transformers have channels whose activations are tens of times the median (Dettmers et al. 2022; in VGGT above all
on camera and register tokens), small ones trained briefly do not. LN(x)·g feeds W: (g·f) and W/f compute the same, but
the activations between them have outliers, which is what SmoothQuant (Xiao et al. 2023) undoes. Powers of two make
the two networks agree to the last bit before anything is rounded. Left out: outliers of the residual stream itself,
and of what the second layer of an MLP reads.
"""

import zlib
from dataclasses import dataclass, replace

import torch
from torch import nn

from vggtq.errors import ConfigError
from vggtq.models.checkpoints.fingerprint import fingerprint
from vggtq.models.loading import LoadedModel, MemoryStream, Stream, VGGTModel
from vggtq.models.vggt.vit import Block


@dataclass
class VGGTWithOutliers(VGGTModel):
    """The same function as without, with `outlier_channels` channels per norm that are `outlier_factor` times larger."""

    outlier_channels: int = 3
    outlier_factor: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = self.outlier_factor
        if factor < 1 or factor & (factor - 1):
            raise ConfigError(f"model.outlier_factor={factor} is not a power of two; try 32, 64 or 128")
        if self.outlier_channels < 0:
            raise ConfigError(f"model.outlier_channels={self.outlier_channels}: use 0 or more")

    def load(self, device: torch.device) -> LoadedModel:
        loaded = super().load(torch.device("cpu"))
        count = add_outliers_(loaded.module, self.outlier_channels, self.outlier_factor)
        source = f"{loaded.weights.source} with {count} synthetic outlier channels ×{self.outlier_factor}"
        weights = replace(loaded.weights, source=source, fingerprint=fingerprint(loaded.module))
        return LoadedModel(loaded.module.to(device), weights)

    def stream(self, skeleton: nn.Module) -> Stream:
        return MemoryStream(self.load(torch.device("cpu")))


@torch.no_grad()
def add_outliers_(model: nn.Module, channels: int, factor: float) -> int:
    """Changes every transformer block of `model` and returns how many channels now have outliers.

    Which ones depends on the block's name alone.
    """
    count = 0
    for name, block in model.named_modules():
        if isinstance(block, Block):
            for part, norm, linear in (
                ("norm1", block.norm1, block.attn.qkv),
                ("norm2", block.norm2, block.mlp.fc1),
            ):
                seed = zlib.crc32(f"{name}.{part}".encode())
                order = torch.randperm(linear.in_features, generator=torch.Generator().manual_seed(seed))
                chosen = order[:channels]
                norm.weight[chosen] *= factor
                norm.bias[chosen] *= factor
                linear.weight[:, chosen] /= factor
                count += len(chosen)
    return count
