"""Numbers of inputs that depend on how many tokens a layer is given at once."""

from vggtq.errors import ConfigError
from vggtq.network.memory import Memory
from vggtq.quant.scheme.activations import Activations


def check_inputs(memory: Memory, activations: Activations) -> None:
    """Raises ConfigError for chunks of tokens where all tokens of a call share a scale that is found in it."""
    shared = activations.mode == "dynamic" and activations.scale_granularity == "per_tensor"
    if shared and (memory.chunk_tokens is not None or memory.keys == "int8"):
        raise ConfigError(
            f"{memory.label} with scheme.activations.granularity=per_tensor: chunks would find other scales; use scales per "
            "token, or leave the options out"
        )
