"""VGGT's training losses (Wang et al., CVPR 2025, section 3.4), and one more that teaches small models to match.

camera: Huber on every iteration's pose encoding. depth and points: confidence-weighted errors of values and of their
gradients, minus α·log of the confidence. matching (not in the paper): the attention of chosen heads of a global
block should lie on the patch that shows the same surface point; without it a small network needs far more steps than
a CPU can take before its cameras leave the identity. Left out: the track loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggtq.geometry import quaternion_to_matrix
from vggtq.models.vggt.network import VGGT
from vggtq.models.vggt.positions import apply_rope, rope_table
from vggtq.train.pool import Batch

CONFIDENCE_ALPHA = 0.2
ITERATION_DISCOUNT = 0.6  # per iteration before the last
HUBER_DELTA = 0.05  # in units of the mean point distance
SHORTEST_BASELINE = 0.03  # below it the direction of a translation says little, and its gradient explodes


def over_iterations(losses: Sequence[Tensor]) -> Tensor:
    """The mean of one loss per iteration of the camera head, in which later iterations weigh more."""
    weights = [ITERATION_DISCOUNT ** (len(losses) - 1 - i) for i in range(len(losses))]
    terms = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def camera_loss(encodings: Sequence[Tensor], truth: Tensor) -> Tensor:
    """Scalar. encodings: one (B, S, 9) per iteration; truth: (B, S, 9)."""
    return over_iterations([F.huber_loss(e, truth, delta=HUBER_DELTA) / HUBER_DELTA for e in encodings])


def pair_losses(encodings: Sequence[Tensor], truth: Tensor) -> dict[str, Tensor]:
    """Scalars `rotation`, `translation` and `direction`: relative poses of all pairs of frames. Arguments as in `camera_loss`.

    Poses are scored by pairs, and the camera loss sees a pair only through frame 0: where two cameras stand close together,
    errors that it finds small turn their direction around.
    """
    wanted = _relative(truth)
    parts = [_pair_errors(_relative(encoding), wanted) for encoding in encodings]
    names = ("rotation", "translation", "direction")
    return {name: over_iterations(row) for name, row in zip(names, zip(*parts, strict=True), strict=True)}


def _relative(encoding: Tensor) -> tuple[Tensor, Tensor]:
    """E_i·E_j⁻¹: rotations (B, S_i, S_j, 3, 3) and translations (B, S_i, S_j, 3)."""
    rotation, translation = quaternion_to_matrix(encoding[..., 3:7]), encoding[..., :3]
    relative = rotation[:, :, None] @ rotation[:, None].mT
    return relative, translation[:, :, None] - (relative @ translation[:, None, :, :, None])[..., 0]


def _pair_errors(predicted: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> list[Tensor]:
    frames = wanted[0].shape[1]
    other = ~torch.eye(frames, dtype=torch.bool, device=wanted[0].device)
    baseline = wanted[1].norm(dim=-1)
    # A small number under the root: the gradient of a norm at 0 is not a number.
    rotation = ((predicted[0] - wanted[0]).square().sum((-1, -2)) + 1e-5).sqrt()
    translation = ((predicted[1] - wanted[1]).square().sum(-1) + 1e-6).sqrt() / (baseline + 0.1)
    unit = [F.normalize(t, dim=-1, eps=SHORTEST_BASELINE) for t in (predicted[1], wanted[1])]
    direction = ((unit[0] - unit[1]).square().sum(-1) + 1e-5).sqrt() * (baseline > SHORTEST_BASELINE)
    return [loss[:, other].mean() for loss in (rotation, translation, direction)]


def dense_loss(predicted: Tensor, confidence: Tensor, truth: Tensor) -> Tensor:
    """Scalar. predicted, truth: (M, H, W, C); confidence: (M, H, W) > 0. Every pixel is valid."""
    error = ((predicted - truth).square().sum(-1) + 1e-6).sqrt()
    value = (confidence * error - CONFIDENCE_ALPHA * confidence.log()).mean()
    difference = predicted - truth
    gradients = []
    for axis in (1, 2):
        length = difference.shape[axis]
        step = difference.narrow(axis, 1, length - 1) - difference.narrow(axis, 0, length - 1)
        weight = confidence.narrow(axis, 1, length - 1)
        gradients.append((weight * step.abs().sum(-1)).mean())
    return value + 0.5 * (gradients[0] + gradients[1])


def matching_targets(points: Tensor, depth: Tensor, poses: Tensor, intrinsics: Tensor, patch: int) -> Tensor:
    """The patch of frame j that shows the centre of patch p of frame i: (B, S, P, S) int64, −1 for none.

    points: (B, S, H, W, 3) world; depth: (B, S, H, W); poses: (B, S, 3, 4); intrinsics: (B, S, 3, 3), pixels.
    """
    frames, height, width = depth.shape[1:]
    centres = points[:, :, patch // 2 :: patch, patch // 2 :: patch].flatten(1, 3)  # (B, S·P, 3)
    camera = poses[..., :3] @ centres.mT[:, None] + poses[..., 3:]  # (B, S_j, 3, S_i·P)
    pixel = intrinsics @ camera
    z = pixel[..., 2, :]
    u, v = (pixel[..., 0, :] / z).round(), (pixel[..., 1, :] / z).round()
    inside = (z > 0.05) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = u.clamp(0, width - 1).long(), v.clamp(0, height - 1).long()
    seen = depth.flatten(2).gather(2, v * width + u)
    visible = inside & ((seen - z).abs() < 0.05 * z)
    index = (v // patch) * (width // patch) + u // patch
    return torch.where(visible, index, -1).unflatten(2, (frames, -1)).permute(0, 2, 3, 1)


def patch_geometry(points: Tensor, depth: Tensor, intrinsics: Tensor, patch: int) -> Tensor:
    """The targets for a patch's token about the surface at its centre: (B, S, P, 6).

    The world point (3), the logarithm of the depth, and the place where the first frame's image plane would
    show the point (2), in units of half the image, ±2 at most. points: (B, S, H, W, 3) world, the first
    camera's frame; depth: (B, S, H, W); intrinsics: (B, S, 3, 3).
    """
    height, width = points.shape[2:4]
    centres = points[:, :, patch // 2 :: patch, patch // 2 :: patch].flatten(2, 3)
    own = depth[:, :, patch // 2 :: patch, patch // 2 :: patch].flatten(2, 3).log()[..., None]
    pixel = centres @ intrinsics[:, :1].mT
    plane = pixel[..., :2] / pixel[..., 2:].clamp(min=0.05)
    half = torch.tensor([width / 2, height / 2], device=points.device)
    return torch.cat([centres, own, (plane / half - 1).clamp(-2, 2)], -1)


def matching_loss(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of attention restricted to one other frame. queries, keys: (B, heads, S, P, d), rotated.

    targets: (B, S, P, S) as from `matching_targets`.
    """
    frames, heads = queries.shape[2], queries.shape[1]
    logits = torch.einsum("bhipd,bhjqd->bhipjq", queries, keys) / queries.shape[-1] ** 0.5
    own = torch.eye(frames, dtype=torch.bool, device=targets.device)[None, :, None]
    wanted = targets.masked_fill(own, -1)[:, None].expand(-1, heads, -1, -1, -1)
    return _cross_entropy(logits, wanted)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """The mean over entries of `wanted` (...) that are not −1, of logits (..., N); 0 where there are none."""
    total = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=-1, reduction="sum")
    return total / (wanted >= 0).sum().clamp(min=1)


class AttentionTap:
    """Records queries and keys of some global blocks while the network runs."""

    def __init__(self, model: VGGT, blocks: list[int], heads: int) -> None:
        self.heads = heads
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        for i in blocks:
            attention = model.aggregator.global_blocks[i].get_submodule("attn")
            attention.get_submodule("q_norm").register_forward_hook(self._into(self.queries, i))
            attention.get_submodule("k_norm").register_forward_hook(self._into(self.keys, i))

    def _into(self, store: dict[int, Tensor], i: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            store[i] = output[:, : self.heads]

        return hook

    def loss(self, model: VGGT, batch: Batch) -> Tensor:
        """Distance of the attention from the patches that show the same surface, averaged over the blocks."""
        config = model.config.aggregator
        grid = (batch.size_hw[0] // config.patch_size, batch.size_hw[1] // config.patch_size)
        special, width = model.aggregator.patch_start_idx, config.embed_dim // config.num_heads
        rope = rope_table(grid, special, width, config.rope_freq, batch.images.device)
        frames = batch.images.shape[1]
        targets = matching_targets(
            batch.points, batch.depth, batch.poses, batch.intrinsics, config.patch_size
        )
        losses = []
        for i in self.queries:
            q, k = (
                apply_rope(t[i].float().unflatten(2, (frames, -1)), rope)[..., special:, :]
                for t in (self.queries, self.keys)
            )
            losses.append(matching_loss(q, k, targets))
        return torch.stack(losses).mean()


def fresh_readout(model: VGGT) -> nn.ModuleDict:
    """Per layer that the dense heads read, a linear map from patch tokens to `patch_geometry`; training only."""
    layers = model.config.dpt.intermediate_layer_idx
    return nn.ModuleDict({str(i): nn.Linear(2 * model.config.aggregator.embed_dim, 6) for i in layers})


def readout_loss(readout: nn.ModuleDict, tokens: dict[int, Tensor], batch: Batch, model: VGGT) -> Tensor:
    """Deep supervision: every layer's tokens should hold the geometry of their patch in plain sight."""
    wanted = patch_geometry(batch.points, batch.depth, batch.intrinsics, model.config.aggregator.patch_size)
    special = model.aggregator.patch_start_idx
    parts = [
        nn.functional.smooth_l1_loss(readout[str(i)](layer_norm(t[:, :, special:].float())), wanted, beta=0.1)
        for i, t in tokens.items()
    ]
    return torch.stack(parts).mean()


def layer_norm(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:])
