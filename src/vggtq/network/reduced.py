"""Less attention between frames, without training (AVGGT, arXiv 2512.02541): what a network's modules are told.

Modules that order blocks have `local_blocks`, how many of the global blocks, from the first, see one frame each, and
`key_stride`: the others see every special token, but of the patches only those of every so-manieth row and column.
"""

from typing import Any

from torch import nn

from vggtq.errors import ConfigError


def reduce_(network: nn.Module, frame_blocks: int, key_stride: int) -> None:
    """In place; a second call replaces the first. Raises ConfigError for what the network cannot do."""
    check_reduced(network, frame_blocks, key_stride)
    for module in network.modules():
        if hasattr(module, "key_stride"):
            told: Any = module
            told.local_blocks, told.key_stride = frame_blocks, key_stride


def check_reduced(network: Any, frame_blocks: int, key_stride: int) -> None:
    """Raises ConfigError for what the network cannot do; it may lie on the meta device."""
    if frame_blocks == 0 and key_stride == 1:
        return
    options = f"scheme.global_attention.frame_blocks={frame_blocks} key_stride={key_stride}"
    blocks = len(network.global_blocks()) if hasattr(network, "global_blocks") else 0
    if not blocks:
        raise ConfigError(
            f"{options}: {type(network).__name__} names no global blocks; leave the options out"
        )
    if frame_blocks > blocks:
        raise ConfigError(f"{options}: there are {blocks} global blocks; use {blocks} at most")
