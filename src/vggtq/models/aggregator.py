"""Alternating attention (VGGT, Wang et al. 2025, section 3.2).

Frame blocks see one frame, global blocks all frames of a sequence; both work on one residual stream.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vggtq.models.config import VGGTConfig
from vggtq.models.positions import rope_table
from vggtq.models.vit import Block, DinoV2, PatchConv
from vggtq.stages import Stages, run_stages, within

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """ImageNet mean and deviation on (B, S, 3, H, W).

    Scalars instead of buffers: nothing to move, to save or to leave on the meta device, and no host copy
    that a CUDA graph could not capture.
    """
    channels = zip(images.unbind(2), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=2)


class Aggregator(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] to tokens {layer: (B, S, T₀ + P, 2C)} for the layers in `keep`.

    Each frame's tokens are [camera, registers, patches]; a layer's entry is its frame block's output next to
    its global block's output. The first T₀ = 1 + registers tokens are special.
    """

    def __init__(self, config: VGGTConfig, keep: Collection[int]) -> None:
        super().__init__()
        c = config.aggregator
        self.config, self.keep = c, frozenset(keep)
        self.patch_start_idx = 1 + c.num_register_tokens
        self.patch_embed: nn.Module
        if config.patch_embed.type == "conv":
            self.patch_embed = PatchConv(c.patch_size, c.embed_dim)
        else:
            self.patch_embed = DinoV2(config.patch_embed)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, c.embed_dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, c.num_register_tokens, c.embed_dim))
        self.frame_blocks = self._blocks()
        self.global_blocks = self._blocks()

    def _blocks(self) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(
            Block(c.embed_dim, c.num_heads, c.mlp_ratio, c.init_values, qk_norm=True) for _ in range(c.depth)
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        tokens: dict[int, Tensor] = run_stages(self, self.stages(images))
        return tokens

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        names = ["patch_embed"]
        if isinstance(self.patch_embed, DinoV2):
            names = [f"patch_embed.blocks.{i}" for i in range(len(self.patch_embed.blocks))]
        pairs = ((f"frame_blocks.{i}", f"global_blocks.{i}") for i in range(len(self.frame_blocks)))
        return [*names, *(name for pair in pairs for name in pair)]

    def stages(self, images: Tensor) -> Stages:
        batch, frames = images.shape[:2]
        x = yield from self._tokens(images)
        n, dim = x.shape[-2:]
        grid = (images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size)
        head_dim = dim // self.config.num_heads
        rope = rope_table(grid, self.patch_start_idx, head_dim, self.config.rope_freq, images.device)
        # The same positions in every frame: rotary angles do not tell frames apart.
        rope_all = (rope[0].repeat(frames, 1), rope[1].repeat(frames, 1))
        kept: dict[int, Tensor] = {}
        for i in range(len(self.frame_blocks)):  # training runs the first few alone
            local = yield f"frame_blocks.{i}", (x.reshape(batch * frames, n, dim), rope)
            x = yield f"global_blocks.{i}", (local.reshape(batch, frames * n, dim), rope_all)
            if i in self.keep:
                shape = (batch, frames, n, dim)
                kept[i] = torch.cat([local.reshape(shape), x.reshape(shape)], dim=-1)
        return kept

    def _tokens(self, images: Tensor) -> Stages:
        """(B, S, N, C): special tokens before the patch tokens of each frame."""
        batch, frames = images.shape[:2]
        flat = normalise(images).flatten(0, 1)
        if isinstance(self.patch_embed, DinoV2):
            patches = yield from within("patch_embed", self.patch_embed.stages(flat))
        else:
            patches = yield "patch_embed", (flat,)
        patches = patches.unflatten(0, (batch, frames))
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        # Entry 0 is for the reference frame, entry 1 for every other.
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)
        return torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2)
