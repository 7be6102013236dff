"""Heads of Pi3 (Wang et al. 2025, arXiv 2507.13347): a small transformer per output, then points, confidence and cameras.

The heads proper run in float32, whatever the rest of the network runs in.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.network import without_autocast
from vggtq.models.pi3.config import HeadsConfig
from vggtq.models.vggt.vit import Block
from vggtq.network.chunks import in_rows
from vggtq.network.heads import autocast_to
from vggtq.network.stages import Held, Stages

Size = tuple[int, int]


class HeadTransformer(nn.Module):
    """Tokens (M, N, E) of single frames to features (M, N, out): pre-norm blocks without LayerScale and QK-norm."""

    def __init__(self, dim: int, out: int, config: HeadsConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.projects = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, mlp_ratio=4.0, scale=None, eps=1e-6) for _ in range(config.depth)
        )
        self.linear_out = nn.Linear(width, out)

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        return ["projects", *(f"blocks.{i}" for i in range(len(self.blocks))), "linear_out"]

    def stages(self, held: Held) -> Stages:
        """held: the tokens as `y`, the rotary table as `cos` and `sin`. Returns the features."""
        held["z"] = yield "projects", lambda: (held["y"],)
        for i in range(len(self.blocks)):
            held["z"] = yield f"blocks.{i}", lambda: (held["z"], (held["cos"], held["sin"]))
        out = yield "linear_out", lambda: (held["z"],)
        del held["z"]
        return out


class ShuffleHead(nn.Module):
    """Patch features (M, P, C) to maps (M, H, W, channels): one linear layer, each patch's outputs laid out as its pixels."""

    frames_at_a_time: int | None = None  # all

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.head_dtype: torch.dtype | None = None
        self.proj = nn.Linear(dim, channels * patch_size**2)

    def forward(self, features: Tensor, grid: Size) -> Tensor:
        with autocast_to(self.head_dtype, features.device):
            if self.frames_at_a_time is None:
                return self._maps(features, grid)
            return in_rows(lambda part: self._maps(part, grid), features, self.frames_at_a_time)

    def _maps(self, features: Tensor, grid: Size) -> Tensor:
        x = self.proj(features.float()).float().transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(x, self.patch_size).permute(0, 2, 3, 1)


class ResidualMlp(nn.Module):
    """f + ReLU(l₃(ReLU(l₂(ReLU(l₁(f)))))) per token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.res_conv2(F.relu(self.res_conv1(x))))
        return x + F.relu(self.res_conv3(hidden))


class CameraHead(nn.Module):
    """Patch features (M, P, C) of single frames to camera-to-world poses (M, 4, 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(ResidualMlp(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features.device):
            x = features.float()
            for residual in self.res_conv:
                x = residual(x)
            x = self.more_mlps(x.mean(dim=1))
            rotation = nearest_rotation(F.normalize(self.fc_rot(x).unflatten(-1, (3, 3)), dim=-1, eps=1e-12))
            pose = torch.cat([rotation, self.fc_t(x)[..., None]], dim=-1)
            last = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*pose.shape[:-2], 1, 4)
            return torch.cat([pose, last], dim=-2)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (…, 3, 3) with the least squared distance to each matrix (orthogonal Procrustes, Kabsch 1976)."""
    rotation: Tensor = _NearestRotation.apply(matrix)
    return rotation


class _NearestRotation(torch.autograd.Function):
    """By singular values, with a gradient of its own: that of the decomposition is infinite for a matrix that is a rotation.

    With R = U D Vᵀ and signed singular values p = D s, a change of the matrix turns R by the skew Ω that solves
    ΩP + PΩ = Rᵀ dM − dMᵀ R, P = V diag(p) Vᵀ.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix)
        sign = torch.linalg.det(u @ vh)
        signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
        rotation = (u * signs[..., None, :]) @ vh
        ctx.save_for_backward(rotation, vh.mT, signs * s)
        return rotation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rotation, v, p = ctx.saved_tensors
        sums = p[..., :, None] + p[..., None, :]
        k = (v.mT @ rotation.mT @ gradients[0] @ v) / sums.where(sums.abs() > 1e-6, 1e-6)
        return rotation @ v @ (k - k.mT) @ v.mT
