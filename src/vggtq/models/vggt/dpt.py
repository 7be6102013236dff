"""Dense prediction heads (DPT, Ranftl et al. 2021) for depth, points and the tracker's feature maps.

Four token layers become a feature pyramid that is fused from coarse to fine. Every operation is per frame, so
frames run a few at a time, which bounds memory and changes no value. Left out: batch norm, dropout.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.vggt.config import DPTConfig
from vggtq.models.vggt.positions import image_plane_embedding
from vggtq.network.heads import autocast_to
from vggtq.network.tokens import Layers, batch_of, frames_of, whole_of

MAX_ELEMENTS = 1_610_612_736  # of one interpolation's output; beyond it GPU kernels run out of 32-bit indices
Size = tuple[int, int]


def upsample(x: Tensor, size: Size) -> Tensor:
    """Bilinear, corner-aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """u + conv₂(ReLU(conv₁(u))) with u = ReLU(x); with `plain_skip` the first summand is x."""

    residual_unit = True  # vggtq.network.declared.residual_units
    fused_forward: Callable[["ResidualConvUnit", Tensor], Tensor | None] | None = None

    def __init__(self, features: int, plain_skip: bool = False) -> None:
        super().__init__()
        self.plain_skip = plain_skip
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.fused_forward(self, x) if self.fused_forward else None
        if fused is not None:
            return fused
        # VGGT's skip adds ReLU(x), not x: its weights were trained with an in-place first ReLU.
        u = F.relu(x)
        return (x if self.plain_skip else u) + self.conv2(F.relu(self.conv1(u)))


class FusionBlock(nn.Module):
    """Adds a finer level to the running map and resizes the sum; the coarsest block has no second input."""

    def __init__(self, features: int, has_skip: bool, plain_skip: bool = False) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features, plain_skip)
        self.resConfUnit2 = ResidualConvUnit(features, plain_skip)

    def forward(self, x: Tensor, size: Size, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        # A 1×1 convolution commutes with interpolation; before it, it is about four times cheaper.
        x = self.out_conv(self.resConfUnit2(x))
        return x if x.shape[-2:] == size else upsample(x, size)


class Scratch(nn.Module):
    """The fusion part of a head; `outputs` is the channel count of the prediction, 0 for plain features.

    None: fusion alone, which ends at the size of the finest level instead of twice that; skips are plain.
    """

    def __init__(self, channels: Sequence[int], features: int, outputs: int | None) -> None:
        super().__init__()
        plain = outputs is None
        self.enlarge = 1 if plain else 2
        for level, width in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FusionBlock(features, level < len(channels), plain))
        width = features // 2 if outputs else features
        self.output_conv1 = nn.Identity() if plain else nn.Conv2d(features, width, 3, padding=1)
        if outputs:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(width, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, outputs, 1)
            )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Levels from fine to coarse to the fused map."""
        levels = [self.get_submodule(f"layer{i}_rn")(x) for i, x in enumerate(pyramid, start=1)]
        sizes: list[Size] = [(self.enlarge * levels[0].shape[-2], self.enlarge * levels[0].shape[-1])]
        sizes += [(x.shape[-2], x.shape[-1]) for x in levels[:-1]]
        x = self.get_submodule(f"refinenet{len(levels)}")(levels[-1], sizes[-1])
        for i in range(len(levels) - 1, 0, -1):
            x = self.get_submodule(f"refinenet{i}")(x, sizes[i - 1], levels[i - 1])
        return self.output_conv1(x)


class DPT(nn.Module):
    """The common part of the three heads: token layers to one fused feature map per frame."""

    frames_at_a_time = 8

    def __init__(
        self, dim: int, patch_size: int, config: DPTConfig, features: int, outputs: int | None
    ) -> None:
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

    def _chunks(self, tokens: Layers, special: int, size: Size) -> Iterator[Iterator[Tensor]]:
        """The patch tokens (M', P, E) of the four layers, one after the other, for a few frames at a time."""
        if torch.compiler.is_exporting():  # a graph for any number of frames has no loop over them
            yield (whole_of(tokens[i]).flatten(0, 1)[:, special:] for i in self.layers)
            return
        batch, frames = batch_of(tokens[self.layers[0]])
        step = min(self.frames_at_a_time, max(1, MAX_ELEMENTS // (self.features * size[0] * size[1])))
        for start in range(0, batch * frames, step):
            stop = min(start + step, batch * frames)
            yield (frames_of(tokens[i], start, stop, special) for i in self.layers)

    def _fused(self, layers: Iterable[Tensor], size: Size, positions: bool) -> Tensor:
        gh, gw = size[0] // self.patch_size, size[1] // self.patch_size
        pyramid = []
        for x, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(x).transpose(1, 2).unflatten(2, (gh, gw)))
            pyramid.append(resize(add_positions(x, size) if positions else x))
        return self.scratch(pyramid)


def add_positions(x: Tensor, size: Size) -> Tensor:
    """Adds a tenth of the image-plane embedding to x (M, n, h, w), in place without gradients; `size` is the image's (H, W)."""
    grid = (x.shape[-2], x.shape[-1])
    embedding = 0.1 * image_plane_embedding(grid, size[1] / size[0], x.shape[1], x.device).to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):  # one order of memory: several times as fast a sum
        embedding = embedding[None].contiguous(memory_format=torch.channels_last)
    return x + embedding if x.requires_grad else x.add_(embedding)  # which is the largest tensor of a head


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
        self.head_dtype: torch.dtype | None = None

    def forward(self, tokens: Layers, special: int, size: Size) -> tuple[Tensor, Tensor]:
        batch, frames = batch_of(tokens[self.layers[0]])
        values, confidences = [], []
        with autocast_to(self.head_dtype, self.norm.weight.device):
            for layers in self._chunks(tokens, special, size):
                out = self._maps(layers, size).to(self.norm.weight.dtype)
                values.append(self.activation(out[..., :-1]))
                confidences.append(1 + out[..., -1].exp())
        value, confidence = (
            torch.cat(parts).unflatten(0, (batch, frames)) for parts in (values, confidences)
        )
        return value, confidence

    def _maps(self, layers: Iterable[Tensor], size: Size) -> Tensor:
        """(M, H, W, K) before activation."""
        x = add_positions(upsample(self._fused(layers, size, positions=True), size), size)
        maps: Tensor = self.scratch.output_conv2(x).permute(0, 2, 3, 1)
        return maps


class TrackFeatures(DPT):
    """Tokens to feature maps (B, S, F, H // stride, W // stride), without positional terms."""

    def __init__(self, dim: int, patch_size: int, config: DPTConfig, features: int, stride: int) -> None:
        super().__init__(dim, patch_size, config, features, outputs=0)
        self.stride = stride

    def forward(self, tokens: Layers, special: int, size: Size) -> Tensor:
        batch, frames = batch_of(tokens[self.layers[0]])
        target = (size[0] // self.stride, size[1] // self.stride)
        chunks = self._chunks(tokens, special, size)
        maps = [upsample(self._fused(layers, size, positions=False), target) for layers in chunks]
        return torch.cat(maps).unflatten(0, (batch, frames))


def signed_expm1(x: Tensor) -> Tensor:
    """sign(x)·(e^|x| − 1): world coordinates of either sign."""
    return x.sign() * x.abs().expm1()
