"""The tracker's transformer (CoTracker, Karaev et al. 2023): attention over time, then over tracks.

Its blocks add their residuals to the *normalised* input, as CoTracker's released blocks do.
"""

import torch
from torch import Tensor, nn

from vggtq.models.config import TrackHeadConfig
from vggtq.models.vit import Mlp


class SelfBlock(nn.Module):
    """Self-attention and MLP on (M, n, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Cross-attention from x to a context, and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class UpdateFormer(nn.Module):
    """(B, Nq, S, A) to updates (B, Nq, S, D + 2)."""

    def __init__(self, width: int, outputs: int, config: TrackHeadConfig) -> None:
        super().__init__()
        dim, heads, depth = config.hidden_size, config.updateformer_num_heads, config.depth
        self.input_norm = nn.LayerNorm(width)
        self.input_transform = nn.Linear(width, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, outputs)
        # The name is misspelt in every checkpoint.
        self.virual_tracks = nn.Parameter(torch.zeros(1, config.num_virtual_tracks, 1, dim))
        self.time_blocks = nn.ModuleList(SelfBlock(dim, heads) for _ in range(depth))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(dim, heads) for _ in range(depth))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        batch, points, frames, _ = x.shape
        start = self.input_transform(self.input_norm(x))
        virtual = self.virual_tracks.to(start.dtype).expand(batch, -1, frames, -1)
        tokens = torch.cat([start, virtual], dim=1)
        for i, time_block in enumerate(self.time_blocks):
            tracks = tokens.shape[1]
            tokens = time_block(tokens.flatten(0, 1)).unflatten(0, (batch, tracks))
            per_frame = tokens.transpose(1, 2).flatten(0, 1)
            per_frame = self._mix_tracks(i, per_frame[:, :points], per_frame[:, points:])
            tokens = per_frame.unflatten(0, (batch, frames)).transpose(1, 2)
        return self.flow_head(self.output_norm(tokens[:, :points] + start))

    def _mix_tracks(self, i: int, real: Tensor, virtual: Tensor) -> Tensor:
        """Real tracks (B·S, Nq, C) exchange information through the few virtual ones only."""
        virtual = self.space_virtual2point_blocks[i](virtual, real)
        virtual = self.space_virtual_blocks[i](virtual)
        return torch.cat([self.space_point2virtual_blocks[i](real, virtual), virtual], dim=1)
