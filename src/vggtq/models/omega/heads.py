"""Heads of VGGT-Ω (arXiv 2605.15195): cameras, depth and, in one checkpoint, text embeddings. They run in float32."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.network import without_autocast
from vggtq.models.omega.config import CameraHeadConfig, TextConfig
from vggtq.models.omega.vit import SCALE_AT_START
from vggtq.models.vggt.camera import POSE_DIM
from vggtq.models.vggt.config import DPTConfig
from vggtq.models.vggt.dpt import DPT, Size, add_positions
from vggtq.models.vggt.vit import Block
from vggtq.network.heads import autocast_to
from vggtq.network.tokens import Layers, batch_of

SMALLEST_FOV = 0.01  # radians


def _blocks(dim: int, depth: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(Block(dim, heads, mlp_ratio=4.0, scale=SCALE_AT_START) for _ in range(depth))


class CameraHead(nn.Module):
    """Special tokens (B, S, T₀, E) of the last layer to pose encodings (B, S, 9), in one pass over all of a sequence."""

    def __init__(self, dim: int, config: CameraHeadConfig) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.trunk = _blocks(dim, config.trunk_depth, config.num_heads)
        self.trunk_norm = nn.LayerNorm(dim)
        self.camera_branch = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, POSE_DIM))

    def forward(self, tokens: Tensor) -> Tensor:
        with without_autocast(tokens.device):
            x = self.token_norm(tokens.float()).flatten(1, 2)
            for block in self.trunk:
                x = block(x)
            encoding = self.camera_branch(self.trunk_norm(x.unflatten(1, tokens.shape[1:3])[:, :, 0]))
            return torch.cat([encoding[..., :7], F.relu(encoding[..., 7:]) + SMALLEST_FOV], dim=-1)


class DepthHead(DPT):
    """Token layers to depth (B, S, h, w, 1) and its confidence (B, S, h, w) ≥ 1, by maps at a quarter that are shuffled."""

    def __init__(self, dim: int, patch_size: int, config: DPTConfig) -> None:
        super().__init__(dim, patch_size, config, config.features, outputs=None)
        self.per_cell = patch_size // 4
        self.head_dtype: torch.dtype | None = None
        self.proj = nn.Conv2d(config.features, self.per_cell**2, 1)
        self.proj_conf = nn.Conv2d(config.features, self.per_cell**2, 1)

    def forward(self, tokens: Layers, special: int, size: Size) -> tuple[Tensor, Tensor]:
        frames = batch_of(tokens[self.layers[0]])
        with autocast_to(self.head_dtype, self.norm.weight.device):
            chunks = self._chunks(tokens, special, size)
            maps = [self._maps((layer.float() for layer in layers), size) for layers in chunks]
        depth, confidence = torch.cat(maps).float().unflatten(0, frames).unbind(2)
        return depth.exp()[..., None], 1 + confidence.exp()

    def _maps(self, layers: Iterable[Tensor], size: Size) -> Tensor:
        """(M, 2, h, w) before activation."""
        x = add_positions(self._fused(layers, size, positions=True), size)
        return F.pixel_shuffle(torch.cat([self.proj(x), self.proj_conf(x)], dim=1), self.per_cell)


class TextHead(nn.Module):
    """Special tokens (B, S, T₀, E) of the last layer to a unit embedding of the sequence and the token that it is made of."""

    def __init__(self, dim: int, config: TextConfig) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.language_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.readout_blocks = _blocks(dim, config.depth, config.num_heads)
        self.language_token_norm = nn.LayerNorm(dim)
        self.embedding_projector = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.LayerNorm(dim // 2), nn.Linear(dim // 2, dim)
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, E)."""
        with without_autocast(tokens.device):
            x = self.token_norm(tokens.float()).flatten(1, 2)
            x = torch.cat([self.language_token.expand(len(x), -1, -1), x], dim=1)
            for block in self.readout_blocks:
                x = block(x)
            token = self.language_token_norm(x[:, 0])
            return F.normalize(self.embedding_projector(token), dim=-1, eps=1e-12), token
