"""VGGT's training losses (Wang et al., CVPR 2025, section 3.4), and one more that teaches small models to match.

camera: Huber on every iteration's pose encoding. depth and points: confidence-weighted errors of values and of their
gradients, minus α·log of the confidence. matching (not in the paper): the attention of chosen heads of a global
block should lie on the patch that shows the same surface point; without it a small network needs far more steps than
a CPU can take before its cameras leave the identity. Left out: the track loss.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vggtq.geometry import quaternion_to_matrix

CONFIDENCE_ALPHA = 0.2
ITERATION_DISCOUNT = 0.6  # per iteration before the last
HUBER_DELTA = 0.02  # in units of the mean point distance: a baseline of 0.1 off by 0.02 points 11° elsewhere
SHORTEST_BASELINE = 0.03  # below it the direction of a translation says little, and its gradient explodes


def camera_loss(encodings: Sequence[Tensor], truth: Tensor) -> Tensor:
    """Scalar. encodings: one (B, S, 9) per iteration; truth: (B, S, 9)."""
    weights = [ITERATION_DISCOUNT ** (len(encodings) - 1 - i) for i in range(len(encodings))]
    losses = [F.huber_loss(e, truth, delta=HUBER_DELTA) / HUBER_DELTA for e in encodings]
    return sum((w * loss for w, loss in zip(weights, losses, strict=True)), truth.new_zeros(())) / sum(
        weights
    )


def direction_loss(encoding: Tensor, truth: Tensor) -> Tensor:
    """Scalar. How far unit translations between all pairs of frames are from the true ones. Both (B, S, 9).

    Poses are scored by these directions, and the camera loss sees them only through frame 0: where two cameras stand
    close together, errors that it finds small turn their direction around.
    """
    predicted, wanted = _baselines(encoding), _baselines(truth)
    difference = F.normalize(predicted, dim=-1, eps=SHORTEST_BASELINE) - F.normalize(wanted, dim=-1)
    counts = wanted.norm(dim=-1) > SHORTEST_BASELINE
    return ((difference.square().sum(-1) + 1e-6).sqrt() * counts).sum() / counts.sum().clamp(min=1)


def _baselines(encoding: Tensor) -> Tensor:
    """Where camera i stands in the axes of camera j: (B, S_i, S_j, 3)."""
    rotation, translation = quaternion_to_matrix(encoding[..., 3:7]), encoding[..., :3]
    centre = -(translation[..., None, :] @ rotation)[..., 0, :]
    return torch.einsum("bjkl,bil->bijk", rotation, centre) + translation[:, None]


def dense_loss(predicted: Tensor, confidence: Tensor, truth: Tensor) -> Tensor:
    """Scalar. predicted, truth: (M, H, W, C); confidence: (M, H, W) > 0. Every pixel is valid."""
    error = (predicted - truth).norm(dim=-1)
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
    """Which patch of frame j shows the centre of patch p of frame i: (B, S, P, S) int64, −1 for none.

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


def patch_geometry(points: Tensor, intrinsics: Tensor, patch: int) -> Tensor:
    """What a patch's token should know about the surface at its centre: (B, S, P, 5).

    Its world point (3) and where the first frame's image plane would show it (2), in units of half the image, ±2 at
    most. points: (B, S, H, W, 3) world, the first camera's frame; intrinsics: (B, S, 3, 3).
    """
    height, width = points.shape[2:4]
    centres = points[:, :, patch // 2 :: patch, patch // 2 :: patch].flatten(2, 3)
    pixel = centres @ intrinsics[:, :1].mT
    plane = pixel[..., :2] / pixel[..., 2:].clamp(min=0.05)
    half = torch.tensor([width / 2, height / 2], device=points.device)
    return torch.cat([centres, (plane / half - 1).clamp(-2, 2)], -1)


def matching_loss(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of attention restricted to one other frame. queries, keys: (B, heads, S, P, d), rotated.

    targets: (B, S, P, S) as from `matching_targets`.
    """
    frames, heads = queries.shape[2], queries.shape[1]
    logits = torch.einsum("bhipd,bhjqd->bhipjq", queries, keys) / queries.shape[-1] ** 0.5
    own = torch.eye(frames, dtype=torch.bool)[None, :, None]
    wanted = targets.masked_fill(own, -1)[:, None].expand(-1, heads, -1, -1, -1)
    return _cross_entropy(logits, wanted)


def reference_loss(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of full attention: patches of later frames should look at their match in frame 0.

    Restricted to one frame, attention may still spend nearly all of itself on the patch it starts from, and then no
    displacement reaches the camera tokens. queries: (B, heads, S, P, d); keys: (B, heads, S, N, d) with the N − P
    special tokens of a frame first, rotated both; targets: (B, S, P, S).
    """
    special, heads = keys.shape[3] - queries.shape[3], queries.shape[1]
    logits = torch.einsum("bhipd,bhkd->bhipk", queries[:, :, 1:], keys.flatten(2, 3)) / keys.shape[-1] ** 0.5
    first = targets[:, 1:, :, 0]
    wanted = torch.where(first >= 0, first + special, -1)
    return _cross_entropy(logits, wanted[:, None].expand(-1, heads, -1, -1))


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """The mean over entries of `wanted` (...) that are not −1, of logits (..., N); 0 where there are none."""
    total = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=-1, reduction="sum")
    return total / (wanted >= 0).sum().clamp(min=1)
