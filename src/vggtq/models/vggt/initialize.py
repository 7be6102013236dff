"""Random weights that depend on the seed and the parameter's name only, not on module order or global state.

Values are where the published training starts: LayerScale constants, tiny tokens, truncated normals in the
patch embed, Xavier in the tracker's transformer, PyTorch's defaults elsewhere.
"""

import math
import zlib

import torch
from torch import Tensor, nn

from vggtq.models.network import Network, allocate_
from vggtq.models.vggt.vit import LayerScale

TINY_TOKENS = ("camera_token", "register_token", "cls_token", "register_tokens")
NORMAL_TOKENS = ("query_ref_token", "virual_tracks")
SMALL_TOKENS = ("storage_tokens", "language_token", "metric_token")
ZERO_TOKENS = ("mask_token", "empty_pose_tokens")


def initialize_(model: Network, seed: int, lively: bool = False) -> None:
    """Fills every parameter, allocating on the CPU what is on the meta device.

    `lively` sets every LayerScale to 1, and `Network.enliven_` biases cameras to plausible ones and lets maps vary: at the
    training start blocks add a hundredth of what they compute, fields of view are near 0 and depth is flat, so
    that a random network would hide every error.
    """
    allocate_(model)
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                # Drawn on the CPU whatever the device, so that every machine gets the same numbers.
                value = torch.empty(parameter.shape, dtype=torch.float32)
                _fill(full, module, value, _generator(seed, full))
                parameter.copy_(value)
        model.reset_buffers_()
        if lively:
            for module in model.modules():
                if isinstance(module, LayerScale):
                    module.gamma.fill_(1.0)
            model.enliven_()


def _generator(seed: int, name: str) -> torch.Generator:
    # Hashed together: the CPU generator reads only the lower 32 bits of its seed.
    return torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))


def _fill(name: str, module: nn.Module, value: Tensor, generator: torch.Generator) -> None:
    leaf = name.rpartition(".")[2]
    if leaf in TINY_TOKENS:
        value.normal_(0, 1e-6, generator=generator)
    elif leaf in NORMAL_TOKENS:
        value.normal_(0, 1, generator=generator)
    elif leaf in SMALL_TOKENS:
        value.normal_(0, 0.02, generator=generator)
    elif leaf in ZERO_TOKENS:
        value.zero_()
    elif leaf == "pos_embed":
        nn.init.trunc_normal_(value, std=0.02, generator=generator)
    elif isinstance(module, LayerScale):
        value.fill_(module.init)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        value.fill_(1.0 if leaf == "weight" else 0.0)
    elif ".updateformer." in name or isinstance(module, nn.MultiheadAttention):
        _fill_updateformer(name, value, generator)
    elif name.startswith(("aggregator.patch_embed.", "encoder.")) and isinstance(module, nn.Linear):
        _fill_truncated(value, 0.02, generator)
    else:
        value.uniform_(-_bound(module), _bound(module), generator=generator)


def _fill_updateformer(name: str, value: Tensor, generator: torch.Generator) -> None:
    if ".flow_head." in name:
        _fill_truncated(value, 0.001, generator)
    elif value.ndim == 1:
        value.zero_()
    else:
        nn.init.xavier_uniform_(value, generator=generator)


def _fill_truncated(value: Tensor, std: float, generator: torch.Generator) -> None:
    if value.ndim == 1:
        value.zero_()
    else:
        nn.init.trunc_normal_(value, std=std, generator=generator)


def _bound(module: nn.Module) -> float:
    """PyTorch's default for weights and biases: 1/√fan_in."""
    if isinstance(module, nn.Linear):
        return 1 / math.sqrt(module.in_features)
    if isinstance(module, nn.ConvTranspose2d):
        return 1 / math.sqrt(module.out_channels * math.prod(module.kernel_size))
    if isinstance(module, nn.Conv2d):
        return 1 / math.sqrt(module.in_channels * math.prod(module.kernel_size))
    raise TypeError(f"no initial values are known for {type(module).__name__}")
