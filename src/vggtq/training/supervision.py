"""Losses on what happens inside the network: attention that matches, tokens that hold their patch's geometry."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.models.aggregator import Aggregator
from vggtq.models.positions import apply_rope, rope_table
from vggtq.models.vggt import VGGT
from vggtq.training.batches import Batch
from vggtq.training.losses import matching_loss, matching_targets, patch_geometry, reference_loss


def first_blocks(aggregator: Aggregator, count: int) -> Aggregator:
    """The same modules, stopping after `count` pairs of blocks."""
    shorter = copy.copy(aggregator)
    shorter._modules = dict(aggregator._modules)
    shorter.frame_blocks = aggregator.frame_blocks[:count]
    shorter.global_blocks = aggregator.global_blocks[:count]
    return shorter


class AttentionTap:
    """Records queries and keys of some global blocks while the network runs."""

    def __init__(self, model: VGGT, blocks: list[int], heads: int) -> None:
        self.heads = heads
        self.first_blocks = first_blocks(model.aggregator, max(blocks) + 1)
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

    def loss(self, model: VGGT, batch: Batch) -> dict[str, Tensor]:
        """`reference` and `matching`, each the mean over the blocks."""
        config = model.config.aggregator
        grid = (batch.size_hw[0] // config.patch_size, batch.size_hw[1] // config.patch_size)
        special, width = model.aggregator.patch_start_idx, config.embed_dim // config.num_heads
        rope = rope_table(grid, special, width, config.rope_freq, batch.images.device)
        frames = batch.images.shape[1]
        targets = matching_targets(
            batch.points, batch.depth, batch.poses, batch.intrinsics, config.patch_size
        )
        reference, matching = [], []
        for i in self.queries:
            q, k = (
                apply_rope(t[i].float().unflatten(2, (frames, -1)), rope) for t in (self.queries, self.keys)
            )
            q = q[..., special:, :]
            # The first head learns to look from every frame at the first one, the others at every other frame.
            reference.append(reference_loss(q[:, :1], k[:, :1], targets))
            matching.append(matching_loss(q[:, 1:], k[:, 1:, ..., special:, :], targets))
        return {"reference": torch.stack(reference).mean(), "matching": torch.stack(matching).mean()}


def fresh_readout(model: VGGT) -> nn.ModuleDict:
    """Per layer that the dense heads read, a linear map from patch tokens to `patch_geometry`; training only."""
    layers = model.config.dpt.intermediate_layer_idx
    return nn.ModuleDict({str(i): nn.Linear(2 * model.config.aggregator.embed_dim, 5) for i in layers})


def readout_loss(readout: nn.ModuleDict, tokens: dict[int, Tensor], batch: Batch, model: VGGT) -> Tensor:
    """Deep supervision: every layer's tokens should hold the geometry of their patch in plain sight."""
    wanted = patch_geometry(batch.points, batch.intrinsics, model.config.aggregator.patch_size)
    special = model.aggregator.patch_start_idx
    parts = [
        nn.functional.smooth_l1_loss(readout[str(i)](layer_norm(t[:, :, special:].float())), wanted, beta=0.1)
        for i, t in tokens.items()
    ]
    return torch.stack(parts).mean()


def layer_norm(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:])
