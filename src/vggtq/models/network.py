"""The interface of every network here to the rest of vggtq: the call and the network's declarations.

A network returns the outputs of its publication. `common_outputs` gives them the names and conventions of
`network.outputs`. The declarations are those of `network.declared`. Calibration runs the network block by block
by its `stages` (`network.stages`).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.models.vggt.vit import Attention, Block
from vggtq.network.heads import autocast_to
from vggtq.network.stages import Held, Stages
from vggtq.network.tokens import KeptTokens

# A plausible camera: no translation, no rotation, about 57° of view on both axes.
LIVELY_POSE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


def allocate_(model: nn.Module) -> None:
    """Gives a model with anything on the meta device memory on the CPU, not filled yet."""
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        # nn.Module.to_empty asks meta tensors for their copies, for which PyTorch imports SymPy: half a second.
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))


class Network(nn.Module):
    """Images (S, 3, H, W) or (B, S, 3, H, W), RGB in [0, 1], to a dict of predictions."""

    patch_size: int
    float32_parts: tuple[str, ...]  # submodules that no autocast reaches
    whole_patches = True  # whether the patch size has to divide both sides of an image
    kept_tokens = "float32"  # `vggtq.network.memory.Memory.tokens`

    def held(self, images: Tensor) -> Held:
        """The values that a pass over these images begins with."""
        return (
            {"inputs": images}
            if self.kept_tokens == "float32"
            else KeptTokens(self.kept_tokens, inputs=images)
        )

    def keeps_tokens(self) -> bool:
        """Whether heads read layers that wait for them."""
        return False

    def global_blocks(self) -> list[str]:
        """The blocks that see all frames, in the order of their calls."""
        raise NotImplementedError

    def stages(self, held: Held) -> Stages:
        """The forward pass as a row of calls of submodules (`vggtq.network.stages`)."""
        raise NotImplementedError

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        raise NotImplementedError

    def special_tokens(self, images: Tensor) -> dict[str, tuple[int, int]]:
        """Prefix of layer names to (tokens of a frame, how many of them, from the first, are no patches) in their inputs."""
        raise NotImplementedError

    def first_last_layers(self) -> list[str]:
        """The input convolution and the output layers of every head."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """The features of a sequence of frames, (D,): its last patch tokens, averaged. images: as `forward`."""
        raise NotImplementedError

    def common_outputs(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs of `forward`, by the names of `vggtq.network.outputs`; other entries are ignored.
        Differentiable.
        """
        return outputs

    def enliven_(self) -> None:
        """Changes random weights so that errors show: at the start of a training, maps are flat and cameras implausible."""

    def reset_buffers_(self) -> None:
        """Sets the buffers that checkpoints have to the values that training starts with."""

    def leave_out_points_(self) -> None:
        """Drops the parts that only the network's own point map needs, when that map is not requested."""

    def bias_masks(self) -> dict[str, str]:
        """Bias to the tensor of the checkpoint, of the same shape, that it is multiplied by when it is loaded."""
        return {}

    def checked(self, images: Tensor) -> Tensor:
        """With a batch axis. Raises ValueError, and AssertionError for sides that the network cannot take."""
        images = images[None] if images.ndim == 4 else images
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f"images: expected (S, 3, H, W) or (B, S, 3, H, W), got {tuple(images.shape)}")
        p, (height, width) = self.patch_size, images.shape[-2:]
        if min(height, width) < p or (self.whole_patches and (height % p or width % p)):
            raise AssertionError(f"images of {height}×{width}: {p} must divide both sides")
        return images

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def norms_before(self) -> dict[str, str]:
        """Linear layer to the LayerNorm whose output it alone reads."""
        blocks = [name for name, module in self.named_modules() if isinstance(module, Block)]
        pairs = (("attn.qkv", "norm1"), ("mlp.fc1", "norm2"))
        return {f"{block}.{linear}": f"{block}.{norm}" for block in blocks for linear, norm in pairs}

    def values_before(self) -> dict[str, tuple[str, int, int]]:
        """Linear layer to the one whose outputs attention averages for it: its name, their first row, the width of a head."""
        return {
            f"{name}.proj": (f"{name}.qkv", 2 * module.dim, module.dim // module.heads)
            for name, module in self.named_modules()
            if isinstance(module, Attention)
        }


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """For heads, which are trained and evaluated in the tokens' own precision."""
    return autocast_to(None, device)
