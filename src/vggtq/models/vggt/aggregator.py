"""Alternating attention (VGGT, Wang et al. 2025, section 3.2).

Frame blocks see one frame, global blocks all frames of a sequence; both work on one residual stream.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.models.vggt.config import VGGTConfig
from vggtq.models.vggt.positions import rope_table, seen_tokens
from vggtq.models.vggt.vit import Block, DinoV2, PatchConv
from vggtq.network.stages import Held, Stages, run_stages, within
from vggtq.network.tokens import PREFIX, TokenLayer, batch_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """ImageNet mean and deviation on (B, S, 3, H, W).

    Scalars instead of buffers: nothing to move, to save or to leave on the meta device, and no host copy
    that a CUDA graph could not capture.
    """
    channels = zip(images.unbind(2), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=2)


def _parts(layer: int) -> tuple[str, str]:
    """The names by which heads read the outputs of a layer's frame block and of its global block."""
    return f"{PREFIX}{layer}.frame", f"{PREFIX}{layer}.global"


def _alone(held: Held, shape: tuple[int, int, int, int]) -> tuple[Any, ...]:
    """The arguments of a block that sees single frames. shape: B, S, N, C."""
    batch, frames, n, dim = shape
    return held["x"].reshape(batch * frames, n, dim), (held["cos"], held["sin"])


def _together(held: Held, shape: tuple[int, int, int, int]) -> tuple[Any, ...]:
    """The arguments of a block that sees all frames of a sequence."""
    batch, frames, n, dim = shape
    return held["x"].reshape(batch, frames * n, dim), (held["all_cos"], held["all_sin"]), held.get("seen")


class Aggregator(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] to tokens {layer: (B, S, T₀ + P, 2C)} for the layers in `keep`.

    Each frame's tokens are [camera, registers, patches]; a layer's entry is its frame block's output next to
    its global block's output. The first T₀ = 1 + registers tokens are special. local_blocks, key_stride: see
    `vggtq.network.reduced`.
    """

    local_blocks = 0
    key_stride = 1

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
        return {i: layer.whole() for i, layer in self.kept(held, batch_of(images)).items()}

    def kept(self, held: Held, batch: tuple[int, int]) -> dict[int, TokenLayer]:
        """The token layers that `forward` returns, after a pass by `stages` of B sequences of S frames; a layer
        is put together when it is asked for.
        """
        layers = sorted(self.keep & set(range(len(self.frame_blocks))))  # training runs the first few alone
        return {i: TokenLayer(held, _parts(i), batch) for i in layers}

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
        # The same positions in every frame: rotary angles do not distinguish frames.
        held["all_cos"], held["all_sin"] = (part.repeat(frames, 1) for part in rope)
        del rope
        seen = seen_tokens(grid, self.patch_start_idx, frames, self.key_stride, device)
        if seen is not None:
            held["seen"] = seen
        for i in range(len(self.frame_blocks)):
            local, mixed = _parts(i)
            held["x"] = yield f"frame_blocks.{i}", partial(_alone, held, (batch, frames, n, dim))
            if i in self.keep:
                held[local] = held["x"].reshape(batch * frames, n, dim)
            alone = i < self.local_blocks
            held["x"] = yield (
                f"global_blocks.{i}",
                partial(_alone if alone else _together, held, (batch, frames, n, dim)),
            )
            if i in self.keep:
                held[mixed] = held["x"].reshape(batch * frames, n, dim)
        for name in ("x", "cos", "sin", "all_cos", "all_sin"):
            del held[name]
        held.pop("seen", None)

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
        # Entry 0 is for the reference frame, entry 1 for every other. An index, since torch.export ties expand to one count.
        special = special[:, torch.arange(frames, device=special.device).clamp(max=1)]
        return torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2)
