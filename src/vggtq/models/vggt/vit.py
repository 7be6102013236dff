"""Transformer blocks with LayerScale, and the DINOv2 patch embed with registers.

Dosovitskiy et al. 2021 (ViT); Touvron et al. 2021 (LayerScale); Oquab et al. 2023 (DINOv2); Darcet et al.
2024 (registers). Inference only: no dropout, no stochastic depth.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.vggt.config import PatchEmbedConfig
from vggtq.models.vggt.positions import RopeTable, apply_rope
from vggtq.network.attention import attend
from vggtq.network.chunks import Finish, Project, in_chunks, in_rows
from vggtq.network.declared import FusedForward
from vggtq.network.stages import Held, Stages, run_stages


class LayerScale(nn.Module):
    """One learned factor per channel on a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention on (B, N, C); with `qk_norm`, LayerNorm over the head width before RoPE.

    rope_groups: see `apply_rope`.
    """

    attention_dtype: torch.dtype | None = None

    def __init__(self, dim: int, heads: int, qk_norm: bool = False, rope_groups: int = 2) -> None:
        super().__init__()
        self.dim, self.heads, self.rope_groups = dim, heads, rope_groups
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RopeTable | None = None) -> Tensor:
        q, k, v = self.project(x, rope)
        return self.merge(attend(q, k, v, self.attention_dtype))

    def project(self, x: Tensor, rope: RopeTable | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (apply_rope(x, rope, self.rope_groups) for x in (q, k))
        return q, k, v

    def merge(self, seen: Tensor) -> Tensor:
        """The outputs of the heads, (B, H, N, d), merged and projected to (B, N, C)."""
        return self.proj(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block: x + γ₁·Attn(LN(x)), then x + γ₂·MLP(LN(x)). scale: of γ at the start; None for no γ.

    chunk_tokens: how many tokens run at a time, None for all; coded_keys: keys and values are kept in int8 then.
    """

    prenorm = True  # vggtq.network.declared.prenorm_blocks
    fused_forward: FusedForward | None = None
    chunk_tokens: int | None = None
    coded_keys = False

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        scale: float | None,
        eps: float = 1e-5,
        qk_norm: bool = False,
        rope_groups: int = 2,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm, rope_groups)
        self.ls1 = nn.Identity() if scale is None else LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if scale is None else LayerScale(dim, scale)

    def forward(self, x: Tensor, rope: RopeTable | None = None, seen: Tensor | None = None) -> Tensor:
        """x: (B, N, C). seen: which of the N tokens are keys, in ascending order; None for all."""
        if self.chunk_tokens is None:
            return self._whole(x, rope, seen)
        rows = self.chunk_tokens // x.shape[1]
        if rows and not self.coded_keys:
            return in_rows(lambda part: self._whole(part, rope, seen), x, rows)
        dtype = self.attn.attention_dtype
        return in_chunks(*self._steps(x), x, rope, self.chunk_tokens, dtype, self.coded_keys, seen)

    def _whole(self, x: Tensor, rope: RopeTable | None, seen: Tensor | None) -> Tensor:
        if seen is not None:
            project, finish = self._steps(x)
            q, k, v = project(x, rope)
            return finish(x, attend(q, k[:, :, seen], v[:, :, seen], self.attn.attention_dtype))
        fused = self.fused_forward(self, x, rope) if self.fused_forward else None
        if fused is not None:
            return fused
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return self._fed_forward(x)

    def _steps(self, x: Tensor) -> tuple[Project, Finish]:
        """The computations before and behind scaled dot products."""
        fused = self.fused_forward
        if fused is not None and fused.takes(self, x):
            return partial(fused.project, self), partial(fused.finish, self)
        return self._project, self._finish

    def _project(self, x: Tensor, rope: RopeTable | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.attn.project(self.norm1(x), rope)

    def _finish(self, x: Tensor, seen: Tensor) -> Tensor:
        return self._fed_forward(x + self.ls1(self.attn.merge(seen)))

    def _fed_forward(self, x: Tensor) -> Tensor:
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchConv(nn.Module):
    """(M, 3, H, W) to patch tokens (M, gh·gw, C), row-major."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """DINOv2 ViT with registers; returns the normalised patch tokens (M, P, C) only.

    mask_token: whether the checkpoint has one, which DINOv2's own training alone reads.
    """

    def __init__(self, config: PatchEmbedConfig, mask_token: bool = True) -> None:
        super().__init__()
        self.config = config
        dim, side = config.embed_dim, config.img_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        self.fixed_positions: Tensor | None = None
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.patch_embed = PatchConv(config.patch_size, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_ratio, config.init_values, config.norm_eps)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        return run_stages(self, self.stages({"inputs": images}))

    def stages(self, held: Held) -> Stages:
        held["x"] = self._embedded(held.pop("inputs"))
        for i in range(len(self.blocks)):
            held["x"] = yield f"blocks.{i}", lambda: (held["x"],)
        return self.norm(held.pop("x"))[:, 1 + self.config.num_register_tokens :]

    def _embedded(self, images: Tensor) -> Tensor:
        """(M, 1 + registers + P, C): class, register and patch tokens."""
        first = self.blocks[0]
        size = first.chunk_tokens if isinstance(first, Block) else None
        if size is None:
            return self._embed(images)
        grid = (images.shape[-2] // self.config.patch_size) * (images.shape[-1] // self.config.patch_size)
        return in_rows(self._embed, images, max(1, size // grid))

    def _embed(self, images: Tensor) -> Tensor:
        frames, _, height, width = images.shape
        x = torch.cat([self.cls_token.expand(frames, -1, -1), self.patch_embed(images)], dim=1)
        x = x + self._positions(height, width).to(x.dtype)
        # Registers come after the class token and have no position.
        return torch.cat([x[:, :1], self.register_tokens.expand(frames, -1, -1), x[:, 1:]], dim=1)

    def fix_positions_(self, size: tuple[int, int] | None) -> None:
        """From now on images have this height and width, and a traced graph has the table as a constant; None: any size."""
        self.fixed_positions = None
        if size is not None:
            with torch.no_grad():
                # The table itself is a parameter, which would be registered twice.
                self.fixed_positions = self._positions(*size).detach()

    def _positions(self, height: int, width: int) -> Tensor:
        """(1, 1 + P, C): the stored table, or its bicubic resampling to the grid of the image."""
        if self.fixed_positions is not None:
            return self.fixed_positions
        p, side = self.config.patch_size, self.config.img_size // self.config.patch_size
        gh, gw = height // p, width // p
        if gh * gw == side**2 and height == width:
            return self.pos_embed
        table = self.pos_embed.float()
        image = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        offset = self.config.interpolate_offset
        # An offset turns the size into a scale, which moves the sampling points; this network has none.
        scale = ((gh + offset) / side, (gw + offset) / side) if offset else None
        image = F.interpolate(
            image,
            size=None if offset else (gh, gw),
            scale_factor=scale,
            mode="bicubic",
            antialias=self.config.interpolate_antialias,
        )
        return torch.cat([table[:, :1], image.flatten(2).transpose(1, 2)], dim=1)
