"""Random weights that depend on the seed and the parameter's name only, not on module order or global state.

Values are where the published training starts: LayerScale constants, tiny tokens, truncated normals in the
patch embed, Xavier in the tracker's transformer, PyTorch's defaults elsewhere.
"""

import math
import zlib

import torch
from torch import Tensor, nn

from vggtq.models.vggt import VGGT
from vggtq.models.vit import LayerScale

# A plausible camera: no translation, no rotation, about 57° of view on both axes.
LIVELY_POSE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
TINY_TOKENS = ("camera_token", "register_token", "cls_token", "register_tokens")
NORMAL_TOKENS = ("query_ref_token", "virual_tracks")
ZERO_TOKENS = ("mask_token", "empty_pose_tokens")


def initialize_(model: VGGT, seed: int, lively: bool = False) -> None:
    """Fills every parameter, allocating on the CPU what is on the meta device.

    `lively` sets every LayerScale to 1, biases the camera head to a plausible camera and lets maps vary: at the
    training start blocks add a hundredth of what they compute, fields of view are near 0 and depth is flat, so
    that a random network would hide every error.
    """
    if any(p.is_meta for p in model.parameters()):
        model.to_empty(device="cpu")
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                # Drawn on the CPU whatever the device, so that every machine gets the same numbers.
                value = torch.empty(parameter.shape, dtype=torch.float32)
                _fill(full, module, value, _generator(seed, full))
                parameter.copy_(value)
        if lively:
            _enliven(model)


def _generator(seed: int, name: str) -> torch.Generator:
    # Hashed together: the CPU generator reads only the lower 32 bits of its seed.
    return torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))


def _enliven(model: VGGT) -> None:
    for module in model.modules():
        if isinstance(module, LayerScale):
            module.gamma.fill_(1.0)
    if model.camera_head is not None:
        head, out = model.camera_head, model.camera_head.pose_branch.fc2
        # Every iteration adds the bias once more; smaller weights keep the sum near it, and fields of view below π.
        out.bias.copy_(out.bias.new_tensor(LIVELY_POSE) / head.num_iterations)
        out.weight.mul_(0.1)
    for dense in (model.depth_head, model.point_head):
        if dense is not None:
            # At the default scale a depth map varies by one percent; ten times that is worth looking at.
            dense.scratch.output_conv2[2].get_parameter("weight").mul_(10)


def _fill(name: str, module: nn.Module, value: Tensor, generator: torch.Generator) -> None:
    leaf = name.rpartition(".")[2]
    if leaf in TINY_TOKENS:
        value.normal_(0, 1e-6, generator=generator)
    elif leaf in NORMAL_TOKENS:
        value.normal_(0, 1, generator=generator)
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
    elif name.startswith("aggregator.patch_embed.") and isinstance(module, nn.Linear):
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
