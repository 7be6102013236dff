"""Weights to start a short training from; every part of them matters from the first step."""

import math

import torch

from vggtq.models.checkpoints.load import load_weights_
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT, build
from vggtq.models.vggt.positions import grid_embedding
from vggtq.models.vggt.vit import LayerScale
from vggtq.train.config import TrainConfig


def first_model(config: TrainConfig) -> VGGT:
    """The network at the first step: with the weights that the configuration names, or random ones."""
    model = fresh_model(config)
    if config.start:
        load_weights_(model, config.start, None)
    return model


def compile_blocks(model: VGGT, tapped: list[int]) -> None:
    """Fuses the parts that are cheap to fuse: one graph per shape serves all blocks of a kind.

    The global blocks in `tapped` stay as they are, since the recordings of their hooks would be lost inside a
    graph.
    """
    untapped = [block for i, block in enumerate(model.aggregator.global_blocks) if i not in tapped]
    for block in (*model.aggregator.frame_blocks, *untapped):
        block.compile(dynamic=False)


def fresh_model(config: TrainConfig) -> VGGT:
    """Seeded random weights for a short training: full residual branches, tokens that differ, a plausible camera."""
    model = build(config.architecture)
    initialize_(model, config.seed, lively=True)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_token", "register_tokens")):
                parameter.normal_(0, 0.02, generator=generator)
        for module in model.modules():
            if isinstance(module, LayerScale):
                module.gamma.fill_(0.5)
        _show_positions(model)
        _attend_to_alike(model)
        assert model.camera_head
        last = model.camera_head.pose_branch.fc2
        last.weight.mul_(0.2)
        last.bias.mul_(0.5)
    return model.train()


def _show_positions(model: VGGT) -> None:
    """Sines and cosines as the first position table: matches are useless to a camera without knowledge of their
    positions.

    The published start, normal numbers of deviation 0.02, is drowned by the patches' contents.
    """
    table = getattr(model.aggregator.patch_embed, "pos_embed", None)
    if table is None:
        return
    side = math.isqrt(table.shape[1] - 1)
    axis = torch.linspace(-math.pi / 2, math.pi / 2, side)
    waves = grid_embedding(axis, axis, table.shape[2], base=0.1)
    table[0, 1:] = 0.5 * waves.flatten(1).T


def _attend_to_alike(model: VGGT) -> None:
    """Queries that equal keys in the global blocks: tokens attend to those that resemble them, as matching needs.

    Mimetic initialization, Trockman & Kolter 2023, without the part on values.
    """
    for block in model.aggregator.global_blocks:
        qkv, width = block.get_submodule("attn.qkv"), model.config.aggregator.embed_dim
        weight, bias = qkv.get_parameter("weight"), qkv.get_parameter("bias")
        weight[:width] = weight[width : 2 * width]
        bias[: 2 * width] = 0
