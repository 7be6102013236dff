"""Point tracker (CoTracker, Karaev et al. 2023, as in VGGSfM, Wang et al. 2024): all frames at once.

Coordinates are in feature-map pixels with corner-aligned sampling: 0 is the centre of the first cell. The transformer attends
over time, then over tracks; its blocks add their residuals to the *normalised* input, as CoTracker's released blocks do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.vggt.config import DPTConfig, TrackHeadConfig
from vggtq.models.vggt.dpt import Size, TrackFeatures
from vggtq.models.vggt.positions import grid_embedding
from vggtq.models.vggt.vit import Mlp
from vggtq.network.tokens import Layers


class TrackHead(nn.Module):
    """Feature maps from the tokens, then the tracker."""

    def __init__(self, dim: int, patch_size: int, dpt: DPTConfig, config: TrackHeadConfig) -> None:
        super().__init__()
        self.feature_extractor = TrackFeatures(dim, patch_size, dpt, config.features, config.stride)
        self.tracker = Tracker(config)

    def forward(
        self, tokens: Layers, special: int, size: Size, query_points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query points (B, Nq, 2) in image pixels to tracks (B, S, Nq, 2), visibility and confidence."""
        return self.tracker(query_points, self.feature_extractor(tokens, special, size))


class Tracker(nn.Module):
    """Refines the positions of query points of frame 0 in all frames."""

    def __init__(self, config: TrackHeadConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.features
        width = 3 * dim + 4
        window = (2 * config.corr_radius + 1) ** 2
        self.query_ref_token = nn.Parameter(torch.zeros(1, 2, width))
        self.corr_mlp = Mlp(config.corr_levels * window, config.hidden_size, dim)
        self.fmap_norm = nn.LayerNorm(dim)
        self.ffeat_norm = nn.GroupNorm(1, dim)
        self.ffeat_updater = nn.Sequential(nn.Linear(dim, dim), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(dim, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(dim, 1))
        self.updateformer = UpdateFormer(width, dim + 2, config)

    def forward(self, query_points: Tensor, fmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.fmap_norm(fmaps.movedim(2, -1)).movedim(-1, 2)
        # Coordinates never drop below float32: bfloat16 has one-pixel steps above 256.
        precise = torch.promote_types(maps.dtype, torch.float32)
        pyramid = correlation_pyramid(maps.to(precise), self.config.corr_levels, self.config.stride)
        query = query_points.to(precise) / self.config.stride  # (B, Nq, 2)
        frames = maps.shape[1]
        feat = sample(pyramid[0][:, 0], query, padding="border").transpose(1, 2)  # (B, Nq, D)
        feat = feat[:, None].expand(-1, frames, -1, -1).to(maps.dtype)
        coords = query[:, None].expand(-1, frames, -1, -1)
        static = self._static_terms(query, frames, (maps.shape[-2], maps.shape[-1])).to(maps.dtype)
        for _ in range(self.config.iters):
            delta = self.updateformer(self._inputs(coords, feat, pyramid) + static).transpose(1, 2)
            coords = torch.cat([query[:, None], coords[:, 1:] + delta[:, 1:, :, :2].to(precise)], dim=1)
            feat = feat + self._feature_update(delta[..., 2:])
        vis, conf = self.vis_predictor(feat), self.conf_predictor(feat)
        return coords * self.config.stride, vis.squeeze(-1).sigmoid(), conf.squeeze(-1).sigmoid()

    def _inputs(self, coords: Tensor, feat: Tensor, pyramid: list[Tensor]) -> Tensor:
        """(B, Nq, S, A): flow embedding, flow twice, correlation and features; a sequence over frames."""
        flow = coords - coords[:, :1]
        corr = self.corr_mlp(correlation(feat, pyramid, coords, self.config.corr_radius).to(feat.dtype))
        scaled = (flow / self.config.max_scale).to(feat.dtype)
        embedded = flow_embedding(flow, self.config.features).to(feat.dtype)
        return torch.cat([embedded, scaled, scaled, corr, feat], dim=-1).transpose(1, 2)

    def _static_terms(self, query: Tensor, frames: int, size: Size) -> Tensor:
        """(B, Nq, S, A): position of the query and the marks of reference and other frames."""
        h, w = size
        xs = torch.arange(w, device=query.device, dtype=torch.float32)
        ys = torch.arange(h, device=query.device, dtype=torch.float32)
        table = grid_embedding(xs, ys, self.query_ref_token.shape[-1], base=10000.0).to(query.dtype)
        position = sample(table.expand(len(query), -1, -1, -1), query, padding="border").transpose(1, 2)
        mark = self.query_ref_token
        marks = torch.cat([mark[:, :1], mark[:, 1:].expand(-1, frames - 1, -1)], dim=1)
        return position[:, :, None] + marks[:, None]

    def _feature_update(self, delta: Tensor) -> Tensor:
        """One group: normalises over the channels of each single point and frame."""
        shape = delta.shape
        return self.ffeat_updater(self.ffeat_norm(delta.reshape(-1, shape[-1]))).reshape(shape)


def sample(maps: Tensor, points: Tensor, padding: str) -> Tensor:
    """Bilinear: maps (M, D, h, w) at points (M, n, 2) in pixels (x, y) to (M, D, n)."""
    h, w = maps.shape[-2:]
    x = 2 * points[..., 0] / max(w - 1, 1) - 1
    y = 2 * points[..., 1] / max(h - 1, 1) - 1
    grid = torch.stack([x, y], dim=-1)[:, None]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode=padding, align_corners=True)[:, :, 0]


def correlation_pyramid(maps: Tensor, levels: int, stride: int) -> list[Tensor]:
    """(B, S, D, h, w) and its successive 2×2 averages."""
    smallest = 2 ** (levels - 1)
    if min(maps.shape[-2:]) < smallest:
        raise ValueError(
            f"tracking on feature maps of {maps.shape[-2]}×{maps.shape[-1]}: {levels} correlation levels "
            f"need {smallest} pixels per side; use images of at least {smallest * stride} pixels per side"
        )
    pyramid = [maps]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1].flatten(0, 1), 2).unflatten(0, maps.shape[:2]))
    return pyramid


def correlation(feat: Tensor, pyramid: list[Tensor], coords: Tensor, radius: int) -> Tensor:
    """(B, S, Nq, levels·(2r+1)²): similarity of each point's feature with the maps around its position.

    feat (B, S, Nq, D), coords (B, S, Nq, 2). Within a level the outer index moves x and the inner one y.
    """
    batch, frames, points, dim = feat.shape
    steps = torch.arange(-radius, radius + 1, device=coords.device, dtype=coords.dtype)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).reshape(-1, 2)
    levels = []
    for level, maps in enumerate(pyramid):
        similarity = feat.to(maps.dtype) @ maps.flatten(3) / dim**0.5  # (B, S, Nq, h·w)
        similarity = similarity.reshape(-1, 1, *maps.shape[-2:]).to(coords.dtype)
        window = (coords / 2**level).reshape(-1, 1, 2) + offsets
        levels.append(sample(similarity, window, padding="zeros").reshape(batch, frames, points, -1))
    return torch.cat(levels, dim=-1)


def flow_embedding(flow: Tensor, channels: int) -> Tensor:
    """(…, 2) to (…, channels): sine and cosine interleaved, x then y, frequencies on a linear ramp from 0."""
    half = channels // 2
    ramp = torch.arange(0, half, 2, device=flow.device, dtype=flow.dtype) * (1000.0 / half)
    angles = flow[..., None] * ramp  # (…, 2, half / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


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
