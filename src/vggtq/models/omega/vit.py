"""DINOv3-style patch embed of VGGT-Ω (arXiv 2605.15195): rotary positions in every block instead of a table."""

import math

import torch
from torch import Tensor, nn

from vggtq.models.omega.config import AggregatorConfig, PatchEmbedConfig
from vggtq.models.vggt.positions import RopeTable
from vggtq.models.vggt.vit import Block, PatchConv
from vggtq.network.stages import Held, Stages

BASE = 100.0
SCALE_AT_START = 1e-5  # of LayerScale


class RopePeriods(nn.Module):
    """Rotary angles 2π·position/period from periods (d/4,) that a checkpoint has; positions lie in (-1, 1)."""

    periods: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("periods", torch.ones(head_dim // 4))

    def reset_buffers_(self) -> None:
        """The published values: powers of BASE."""
        steps = torch.arange(len(self.periods), dtype=torch.float32) / len(self.periods)
        self.periods.copy_(BASE**steps)

    def forward(self, grid_hw: tuple[int, int], special: int) -> RopeTable:
        """cos and sin, each (special + gh·gw, d) float32; special tokens do not turn.

        Both axes are scaled by the longer side, which the positions of the shorter one do not fill. Quarters of d turn with
        y, x, y, x, so that channel k pairs with channel k + d/2.
        """
        longer = max(grid_hw)
        device = self.periods.device
        y, x = (2 * (torch.arange(n, device=device, dtype=torch.float32) + 0.5) / longer - 1 for n in grid_hw)
        periods = self.periods.float()
        rows, columns = (2 * math.pi * places[:, None] / periods for places in (y, x))
        gh, gw = grid_hw
        half = torch.cat([rows[:, None].expand(gh, gw, -1), columns[None].expand(gh, gw, -1)], dim=-1)
        angles = half.repeat(1, 1, 2).flatten(0, 1)
        angles = torch.cat([angles.new_zeros(special, angles.shape[1]), angles])
        return angles.cos(), angles.sin()


class DinoV3(nn.Module):
    """ViT with storage tokens; returns the normalised patch tokens (M, P, C) only."""

    def __init__(self, aggregator: AggregatorConfig, config: PatchEmbedConfig) -> None:
        super().__init__()
        dim, heads = aggregator.embed_dim, config.num_heads
        self.patch_size, self.special = aggregator.patch_size, 1 + config.num_storage_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, config.num_storage_tokens, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # only the ViT's own training reads it
        self.patch_embed = PatchConv(aggregator.patch_size, dim)
        self.rope_embed = RopePeriods(dim // heads)
        self.blocks = nn.ModuleList(
            Block(dim, heads, config.mlp_ratio, SCALE_AT_START, rope_groups=1) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)

    def stages(self, held: Held) -> Stages:
        """held: the images (M, 3, H, W) as `inputs`."""
        images = held.pop("inputs")
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        special = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(images), -1, -1)
        held["x"] = torch.cat([special, self.patch_embed(images)], dim=1)
        held["cos"], held["sin"] = self.rope_embed(grid, self.special)
        del images, special
        for i in range(len(self.blocks)):
            held["x"] = yield f"blocks.{i}", lambda: (held["x"], (held["cos"], held["sin"]))
        return self.norm(held.pop("x"))[:, self.special :]
