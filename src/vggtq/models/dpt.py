"""Dense prediction heads (DPT, Ranftl et al. 2021) for depth, points and the tracker's feature maps.

Four token layers become a feature pyramid that is fused from coarse to fine. Every operation is per frame, so
frames run a few at a time, which bounds memory and changes no value. Left out: batch norm, dropout.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.config import DPTConfig
from vggtq.models.positions import image_plane_embedding

FRAMES_AT_A_TIME = 8
MAX_ELEMENTS = 1_610_612_736  # of one interpolation's output; beyond it GPU kernels run out of 32-bit indices
Size = tuple[int, int]


def upsample(x: Tensor, size: Size) -> Tensor:
    """Bilinear, corner-aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """u + conv₂(ReLU(conv₁(u))) with u = ReLU(x)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # The skip adds ReLU(x), not x: the weights were trained with an in-place first ReLU.
        u = F.relu(x)
        return u + self.conv2(F.relu(self.conv1(u)))


class FusionBlock(nn.Module):
    """Adds a finer level to the running map and resizes the sum; the coarsest block has no second input."""

    def __init__(self, features: int, has_skip: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, x: Tensor, size: Size, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        # A 1×1 convolution commutes with interpolation; before it, it is about four times cheaper.
        return upsample(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The fusion part of a head; `outputs` is the channel count of the prediction, 0 for plain features."""

    def __init__(self, channels: Sequence[int], features: int, outputs: int) -> None:
        super().__init__()
        for level, width in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FusionBlock(features, has_skip=level < len(channels)))
        width = features // 2 if outputs else features
        self.output_conv1 = nn.Conv2d(features, width, 3, padding=1)
        if outputs:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(width, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1)
            )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Levels from fine to coarse to the fused map at twice the finest size."""
        levels = [self.get_submodule(f"layer{i}_rn")(x) for i, x in enumerate(pyramid, start=1)]
        sizes: list[Size] = [(2 * levels[0].shape[-2], 2 * levels[0].shape[-1])]
        sizes += [(x.shape[-2], x.shape[-1]) for x in levels[:-1]]
        x = self.get_submodule(f"refinenet{len(levels)}")(levels[-1], sizes[-1])
        for i in range(len(levels) - 1, 0, -1):
            x = self.get_submodule(f"refinenet{i}")(x, sizes[i - 1], levels[i - 1])
        return self.output_conv1(x)


class DPT(nn.Module):
    """What the three heads share: token layers to one fused feature map per frame."""

    def __init__(self, dim: int, patch_size: int, config: DPTConfig, features: int, outputs: int) -> None:
        super().__init__()
        self.patch_size, self.features, self.layers = patch_size, features, config.intermediate_layer_idx
        o1, o2, _, o4 = config.out_channels
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, o, 1) for o in config.out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(o1, o1, 4, stride=4),
                nn.ConvTranspose2d(o2, o2, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(o4, o4, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(config.out_channels, features, outputs)

    def _chunks(self, tokens: dict[int, Tensor], special: int, size: Size) -> Iterator[list[Tensor]]:
        """The patch tokens (M', P, E) of the four layers for a few frames at a time."""
        layers = [tokens[i].flatten(0, 1) for i in self.layers]
        step = min(FRAMES_AT_A_TIME, max(1, MAX_ELEMENTS // (self.features * size[0] * size[1])))
        for start in range(0, len(layers[0]), step):
            yield [layer[start : start + step, special:] for layer in layers]

    def _fused(self, layers: list[Tensor], size: Size, positions: bool) -> Tensor:
        gh, gw = size[0] // self.patch_size, size[1] // self.patch_size
        pyramid = []
        for x, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(x).transpose(1, 2).unflatten(2, (gh, gw)))
            pyramid.append(resize(add_positions(x, size) if positions else x))
        return self.scratch(pyramid)


def add_positions(x: Tensor, size: Size) -> Tensor:
    """Adds a tenth of the image-plane embedding to x (M, n, h, w); `size` is the image's (H, W)."""
    grid = (x.shape[-2], x.shape[-1])
    return x + 0.1 * image_plane_embedding(grid, size[1] / size[0], x.shape[1], x.device).to(x.dtype)


class DenseHead(DPT):
    """Tokens to a prediction (B, S, H, W, K−1) and its confidence (B, S, H, W) ≥ 1."""

    def __init__(
        self,
        dim: int,
        patch_size: int,
        config: DPTConfig,
        outputs: int,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(dim, patch_size, config, config.features, outputs)
        self.activation = activation

    def forward(self, tokens: dict[int, Tensor], special: int, size: Size) -> tuple[Tensor, Tensor]:
        batch, frames = tokens[self.layers[0]].shape[:2]
        maps = []
        for layers in self._chunks(tokens, special, size):
            x = add_positions(upsample(self._fused(layers, size, positions=True), size), size)
            maps.append(self.scratch.output_conv2(x).permute(0, 2, 3, 1))
        out = torch.cat(maps).unflatten(0, (batch, frames))
        return self.activation(out[..., :-1]), 1 + out[..., -1].exp()


class TrackFeatures(DPT):
    """Tokens to feature maps (B, S, F, H // stride, W // stride), without positional terms."""

    def __init__(self, dim: int, patch_size: int, config: DPTConfig, features: int, stride: int) -> None:
        super().__init__(dim, patch_size, config, features, outputs=0)
        self.stride = stride

    def forward(self, tokens: dict[int, Tensor], special: int, size: Size) -> Tensor:
        batch, frames = tokens[self.layers[0]].shape[:2]
        target = (size[0] // self.stride, size[1] // self.stride)
        chunks = self._chunks(tokens, special, size)
        maps = [upsample(self._fused(layers, size, positions=False), target) for layers in chunks]
        return torch.cat(maps).unflatten(0, (batch, frames))


def signed_expm1(x: Tensor) -> Tensor:
    """sign(x)·(e^|x| − 1): world coordinates of either sign."""
    return x.sign() * x.abs().expm1()
