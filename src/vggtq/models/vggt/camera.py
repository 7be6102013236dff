"""Camera head (VGGT, Wang et al. 2025, section 3.3): pose encodings refined over a few iterations.

A small transformer over the frames' camera tokens, modulated by the running estimate (adaptive LayerNorm,
DiT, Peebles & Xie 2023).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.models.vggt.config import CameraHeadConfig
from vggtq.models.vggt.vit import Block, Mlp

POSE_DIM = 9  # translation (3), quaternion x, y, z, w (4), vertical and horizontal field of view (2, radians)


class CameraHead(nn.Module):
    """Tokens (B, S, N, E) of the last layer, of which the first of a frame is read, to one (B, S, 9) encoding per iteration."""

    def __init__(self, dim: int, config: CameraHeadConfig) -> None:
        super().__init__()
        self.num_iterations = config.num_iterations
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_DIM))
        self.trunk = nn.ModuleList(
            Block(dim, config.num_heads, mlp_ratio=4.0, scale=0.01) for _ in range(config.trunk_depth)
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.embed_pose = nn.Linear(POSE_DIM, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, POSE_DIM)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        z = self.token_norm(tokens[:, :, 0])
        estimate: Tensor | None = None
        encodings = []
        for _ in range(self.num_iterations):
            delta = self._update(z, estimate)
            # The next iteration reads the raw sum; only what is returned is activated.
            estimate = delta if estimate is None else estimate + delta
            encodings.append(torch.cat([estimate[..., :7], F.relu(estimate[..., 7:])], dim=-1))
        return encodings

    def _update(self, z: Tensor, estimate: Tensor | None) -> Tensor:
        pose = self.empty_pose_tokens.expand(*z.shape[:2], -1) if estimate is None else estimate
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
        x = z + gate * (self.adaln_norm(z) * (1 + scale) + shift)
        for block in self.trunk:
            x = block(x)
        return self.pose_branch(self.trunk_norm(x))
