"""Sets the levers of `vggtq.network.memory` on a network.

Blocks have `chunk_tokens` and `coded_keys`, heads `frames_at_a_time`, networks `kept_tokens`, `keeps_tokens` and
`global_blocks` (`vggtq.models.network`).
"""

from typing import Any

from torch import nn

from vggtq.errors import ConfigError
from vggtq.network.attention import ATTRIBUTE
from vggtq.network.memory import CHUNK_TOKENS, Memory


def bound_(network: Any, memory: Memory) -> None:
    """In place; a second call replaces the first. Raises ConfigError for what the network cannot do."""
    check(network, memory)
    for module in network.modules():
        if hasattr(module, "chunk_tokens"):
            module.chunk_tokens = memory.chunk_tokens
        own = getattr(type(module), "frames_at_a_time", 0)
        if own != 0:
            module.frames_at_a_time = memory.head_frames or own
    if memory.tokens != "float32" or hasattr(network, "kept_tokens"):
        network.kept_tokens = memory.tokens
    coded = memory.keys == "int8"
    for name in network.global_blocks() if hasattr(network, "global_blocks") else ():
        block = network.get_submodule(name)
        block.coded_keys = coded
        block.chunk_tokens = memory.chunk_tokens or (CHUNK_TOKENS if coded else None)


def check(network: Any, memory: Memory, attention: str = "float32") -> None:
    """Raises ConfigError for what the network cannot do; it may lie on the meta device. attention: what it will be set to."""
    name = type(network).__name__
    known = isinstance(network, nn.Module) and hasattr(network, "keeps_tokens")
    if memory.bounds and not known:
        raise ConfigError(
            f"{memory.label}: {name} does not say how its memory is bounded; leave the options out"
        )
    if memory.tokens != "float32" and not network.keeps_tokens():
        raise ConfigError(
            f"memory.tokens={memory.tokens}: no layers of {name} wait for its heads; use memory.tokens=float32"
        )
    if memory.keys == "int8" and (attention != "float32" or _attention_types(network)):
        raise ConfigError(
            "memory.keys=int8 with scheme.attention: keys and values have one type; use memory.keys=float32, or "
            "scheme.attention=float32"
        )


def _attention_types(network: nn.Module) -> bool:
    return any(getattr(module, ATTRIBUTE, None) is not None for module in network.modules())
