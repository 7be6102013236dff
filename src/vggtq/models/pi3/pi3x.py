"""Pi3X, the successor of Pi3 by the same authors: convolutional heads and a metric scale per sequence.

State dict names and shapes are those of the published `yyfz233/Pi3X` checkpoint without its four optional parts. Left out:
these, which take depth, rays and poses as conditions; a network without conditions computes the same without them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.pi3.config import ConvHeadConfig, MetricConfig, Pi3XConfig
from vggtq.models.pi3.heads import Size
from vggtq.models.pi3.network import Pi3, scaled_rays
from vggtq.models.vggt.positions import RopeTable, apply_rope, image_plane, rope_table
from vggtq.models.vggt.vit import Mlp
from vggtq.network.attention import attend
from vggtq.network.heads import autocast_to
from vggtq.network.stages import Held, Stages

LARGEST_LOG_Z = 15.0
OPTIONAL_PARTS = ("depth_encoder.*", "depth_emb", "ray_embed.*", "pose_inject_blk.*")


class Pi3X(Pi3):
    """Images to a dict of predictions; see `forward`."""

    config: Pi3XConfig

    def __init__(self, config: Pi3XConfig) -> None:
        super().__init__(config)
        dim, m = config.heads.point_out, config.metric
        self.point_head = ConvHead(dim, (2, 1), self.patch_size, config.conv_head)
        self.conf_head = ConvHead(dim, (1,), self.patch_size, config.conv_head)
        self.metric_token = nn.Parameter(torch.zeros(1, 1, 2 * config.decoder.embed_dim))
        self.metric_decoder = MetricDecoder(2 * config.decoder.embed_dim, m)
        self.metric_head = nn.Linear(m.embed_dim, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As Pi3, in metres; also rays (B, S, H, W, 3), unit vectors through the pixels, and metric (B,), the scale."""
        return super().forward(images)

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        return [*super().stage_names(), "metric_decoder", "metric_head"]

    def _scale(self, held: Held, frames: torch.Size, grid: Size) -> Stages:
        c, m = self.config.decoder, self.config.metric
        rope = rope_table(
            grid, c.num_register_tokens, m.embed_dim // m.num_heads, c.rope_freq, held["y"].device
        )
        held["cos"], held["sin"] = (part.repeat(frames[1], 1) for part in rope)
        del rope
        held["z"] = yield (
            "metric_decoder",
            lambda: (
                self.metric_token.expand(frames[0], -1, -1),
                held["y"].unflatten(0, frames).flatten(1, 2),
                (held["cos"], held["sin"]),
            ),
        )
        held["metric"] = yield "metric_head", lambda: (held["z"],)

    def _outputs(self, held: Held, frames: torch.Size) -> dict[str, Tensor]:
        held["point"] = held["point"].clamp(
            max=held["point"].new_tensor([torch.inf, torch.inf, LARGEST_LOG_Z])
        )
        out = super()._outputs(held, frames)
        metric = held["metric"].float().exp().flatten()
        for name in ("points", "local_points"):
            out[name] = out[name] * metric[:, None, None, None, None]
        poses = out["camera_poses"]
        position = poses[..., :3, 3:] * metric[:, None, None, None]
        upper = torch.cat([poses[..., :3, :3], position], dim=-1)
        out["camera_poses"] = torch.cat([upper, poses[..., 3:, :]], dim=-2)
        xy = held["point"][..., :2].unflatten(0, frames)
        rays = F.normalize(scaled_rays(xy, torch.ones_like(xy[..., :1])), dim=-1)
        return out | {"rays": rays, "metric": metric}

    def norms_before(self) -> dict[str, str]:
        blocks = [f"metric_decoder.blocks.{i}" for i in range(len(self.metric_decoder.blocks))]
        pairs = (("cross_attn.q_proj", "norm2"), ("mlp.fc1", "norm3"))
        own = {f"{block}.{linear}": f"{block}.{norm}" for block in blocks for linear, norm in pairs}
        return super().norms_before() | own

    def values_before(self) -> dict[str, tuple[str, int, int]]:
        width = self.config.metric.embed_dim // self.config.metric.num_heads
        names = [f"metric_decoder.blocks.{i}.cross_attn" for i in range(len(self.metric_decoder.blocks))]
        return super().values_before() | {f"{name}.proj": (f"{name}.v_proj", 0, width) for name in names}

    def first_last_layers(self) -> list[str]:
        ends = ["point_head.output_block.0.2", "point_head.output_block.1.2", "conf_head.output_block.0.2"]
        cameras = ["camera_head.fc_t", "camera_head.fc_rot"]
        return ["encoder.patch_embed.proj", *ends, *cameras, "metric_head"]

    def enliven_(self) -> None:
        """A camera near the identity, and rays through the places of the image plane that the head is told."""
        self._enliven_camera()
        assert isinstance(self.point_head, ConvHead)
        block = self.point_head.output_block[0]
        first, last = (
            {name: block.get_parameter(f"{i}.{name}") for name in ("weight", "bias")} for i in (0, 2)
        )
        last["weight"].mul_(0.01)
        for axis in (0, 1):
            # ReLU(x + 1) - 1 is x, which never falls to -1.
            first["weight"][axis] = 0
            first["weight"][axis, axis - 2, 1, 1] = 1
            first["bias"][axis] = 1
            last["weight"][:, axis] = 0
            last["weight"][axis, axis] = 1
            last["bias"][axis] = -1


class ConvHead(nn.Module):
    """Patch features (M, P, C) to maps (M, H, W, Σ channels): three doublings, a resize, a small head for each of `channels`.

    Every level is told where in the image plane its pixels lie.
    """

    frames_at_a_time = 8

    def __init__(self, dim: int, channels: Sequence[int], patch_size: int, config: ConvHeadConfig) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.head_dtype: torch.dtype | None = None
        widths = (dim, *config.widths)
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.ConvTranspose2d(i + 2, o, 2, stride=2), _conv3x3(o, o)),
                ResidualConv(o),
                ResidualConv(o),
            )
            for i, o in pairwise(widths)
        )
        self.output_block = nn.ModuleList(
            nn.Sequential(
                _conv3x3(widths[-1] + 2, config.hidden), nn.ReLU(), nn.Conv2d(config.hidden, count, 1)
            )
            for count in channels
        )

    def forward(self, features: Tensor, grid: Size) -> Tensor:
        with autocast_to(self.head_dtype, features.device):
            maps = features.float().transpose(1, 2).unflatten(2, grid)
            return torch.cat([self._maps(part, grid) for part in maps.split(self.frames_at_a_time)]).float()

    def _maps(self, x: Tensor, grid: Size) -> Tensor:
        aspect = grid[1] / grid[0]
        for block in self.upsample_blocks:
            x = block(_with_places(x, aspect))
        size = (self.patch_size * grid[0], self.patch_size * grid[1])
        x = _with_places(F.interpolate(x, size=size, mode="bilinear", align_corners=False), aspect)
        return torch.cat([output(x) for output in self.output_block], dim=1).permute(0, 2, 3, 1)


class ResidualConv(nn.Module):
    """x + conv(ReLU(GN(conv(ReLU(GN(x)))))) with twice as many channels in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.ReLU(),
            _conv3x3(width, hidden),
            nn.GroupNorm(hidden // 32, hidden),
            nn.ReLU(),
            _conv3x3(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _conv3x3(inward: int, outward: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, padding=1, padding_mode="replicate")


def _with_places(x: Tensor, aspect: float) -> Tensor:
    """x (M, n, h, w) with two more channels: where its pixels lie in the image plane, x before y."""
    frames, _, height, width = x.shape
    xs, ys = image_plane((height, width), aspect, x.device)
    places = torch.stack([xs[None].expand(height, width), ys[:, None].expand(height, width)])
    return torch.cat([x, places.to(x.dtype).expand(frames, -1, -1, -1)], dim=1)


class MetricDecoder(nn.Module):
    """One token (B, 1, E) that looks at all tokens (B, S·N, E) of its sequence, to (B, 1, width)."""

    def __init__(self, dim: int, config: MetricConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.projects_x = nn.Linear(dim, width)
        self.projects_y = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(CrossBlock(width, config.num_heads) for _ in range(config.depth))
        self.linear_out = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, rope: RopeTable) -> Tensor:
        x, y = self.projects_x(x), self.projects_y(y)
        for block in self.blocks:
            x = block(x, y, rope)
        return self.linear_out(x)


class CrossBlock(nn.Module):
    """x + Attn(LN(x), LN(y)), then x + MLP(LN(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.norm_y = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, y: Tensor, rope: RopeTable) -> Tensor:
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rope)
        return x + self.mlp(self.norm3(x))


class CrossAttention(nn.Module):
    """Multi-head attention of x (B, n, C) to y (B, N, C). Keys are rotated; queries are at the origin, where nothing turns."""

    attention_dtype: torch.dtype | None = None

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor, rope: RopeTable) -> Tensor:
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(x), self.k_proj(y), self.v_proj(y))
        )
        out = attend(q, apply_rope(k, rope), v, self.attention_dtype)
        return self.proj(out.transpose(1, 2).flatten(2))
