"""Alternating attention (VGGT, Wang et al. 2025, section 3.2).

Frame blocks see one frame, global blocks all frames of a sequence; both work on one residual stream.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vggtq.models.config import VGGTConfig
from vggtq.models.positions import rope_table
from vggtq.models.vit import Block, DinoV2, PatchConv
from vggtq.stages import Held, Stages, run_stages, within

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
        held: Held = {"inputs": images}
        run_stages(self, self.stages(held))
        return self.kept(held)

    def kept(self, held: Held) -> dict[int, Tensor]:
        """What `forward` returns, after a pass by `stages`."""
        layers = sorted(self.keep & set(range(len(self.frame_blocks))))  # training runs the first few alone
        return {i: held[f"tokens.{i}"] for i in layers}

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        names = ["patch_embed"]
        if isinstance(self.patch_embed, DinoV2):
            names = [f"patch_embed.blocks.{i}" for i in range(len(self.patch_embed.blocks))]
        pairs = ((f"frame_blocks.{i}", f"global_blocks.{i}") for i in range(len(self.frame_blocks)))
        return [*names, *(name for pair in pairs for name in pair)]

    def stages(self, held: Held) -> Stages:
        batch, frames, _, height, width = held["inputs"].shape
        device = held["inputs"].device
        held["x"] = yield from self._tokens(held)
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        n, dim = self.patch_start_idx + grid[0] * grid[1], self.config.embed_dim
        head_dim = dim // self.config.num_heads
        rope = rope_table(grid, self.patch_start_idx, head_dim, self.config.rope_freq, device)
        held["cos"], held["sin"] = rope
        # The same positions in every frame: rotary angles do not tell frames apart.
        held["all_cos"], held["all_sin"] = (part.repeat(frames, 1) for part in rope)
        del rope
        for i in range(len(self.frame_blocks)):
            held["local"] = yield (
                f"frame_blocks.{i}",
                lambda: (held["x"].reshape(batch * frames, n, dim), (held["cos"], held["sin"])),
            )
            held["x"] = yield (
                f"global_blocks.{i}",
                lambda: (held["local"].reshape(batch, frames * n, dim), (held["all_cos"], held["all_sin"])),
            )
            if i in self.keep:
                held[f"tokens.{i}"] = torch.cat(
                    [held[name].reshape(batch, frames, n, dim) for name in ("local", "x")], dim=-1
                )
        for name in ("x", "local", "cos", "sin", "all_cos", "all_sin"):
            del held[name]

    def _tokens(self, held: Held) -> Stages:
        """(B, S, N, C): special tokens before the patch tokens of each frame."""
        batch, frames = held["inputs"].shape[:2]
        if isinstance(self.patch_embed, DinoV2):
            held["inputs"] = normalise(held["inputs"]).flatten(0, 1)
            patches = yield from within("patch_embed", self.patch_embed.stages(held))
        else:
            patches = yield "patch_embed", lambda: (normalise(held["inputs"]).flatten(0, 1),)
            del held["inputs"]
        patches = patches.unflatten(0, (batch, frames))
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        # Entry 0 is for the reference frame, entry 1 for every other.
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)
        return torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2)
