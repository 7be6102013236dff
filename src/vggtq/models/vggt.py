"""VGGT (Wang et al., CVPR 2025): cameras, depth, points and tracks from images in one pass.

State dict names and shapes are those of the published `facebook/VGGT-1B` checkpoint. Left out: training
losses and the token layers that no head reads.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.models.aggregator import Aggregator
from vggtq.models.camera import CameraHead
from vggtq.models.config import VGGTConfig, parse_config
from vggtq.models.dpt import DenseHead, Size, signed_expm1
from vggtq.models.track import TrackHead
from vggtq.models.vit import Attention, Block
from vggtq.stages import Held, Stages, within


def build(config: Mapping[str, Any] | None = None) -> "VGGT":
    """The network in eval mode; keys that `config` leaves out take VGGT-1B's values. Raises ConfigError.

    Its parameters are placeholders: fill them with `load_weights_` or `initialize_`. Under
    `torch.device("meta")` nothing is allocated.
    """
    return VGGT(parse_config(config)).eval()


class VGGT(nn.Module):
    """Images to a dict of predictions; see `forward`."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        a, heads = config.aggregator, config.heads
        dim, p = 2 * a.embed_dim, a.patch_size
        self.aggregator = Aggregator(config, config.kept_layers())
        self.camera_head = CameraHead(dim, config.camera_head) if heads.camera else None
        self.point_head = DenseHead(dim, p, config.dpt, 4, signed_expm1) if heads.point else None
        self.depth_head = DenseHead(dim, p, config.dpt, 2, torch.exp) if heads.depth else None
        self.track_head = TrackHead(dim, p, config.dpt, config.track_head) if heads.track else None

    def forward(self, images: Tensor, query_points: Tensor | None = None) -> dict[str, Any]:
        """images: (S, 3, H, W) or (B, S, 3, H, W), RGB in [0, 1]; query_points: (Nq, 2) or (B, Nq, 2), pixels
        of frame 0.

        Returns pose_enc (B, S, 9) and pose_enc_list; depth (B, S, H, W, 1), depth_conf (B, S, H, W);
        world_points (B, S, H, W, 3), world_points_conf; with query points track (B, S, Nq, 2), vis and conf
        (B, S, Nq); in eval mode also images (B, S, 3, H, W). Frame 0's camera is the world frame.
        """
        images = self._checked(images)
        size = (images.shape[-2], images.shape[-1])
        tokens = self.aggregator(images)
        with without_autocast(images.device):
            out = self._cameras(tokens) | self._maps(tokens, size)
        if self.track_head is not None and query_points is not None:
            points = query_points if query_points.ndim == 3 else query_points[None]
            tracked = self.track_head(tokens, self.aggregator.patch_start_idx, size, points)
            out |= dict(zip(("track", "vis", "conf"), tracked, strict=True))
        return out if self.training else out | {"images": images}

    def _checked(self, images: Tensor) -> Tensor:
        images = images[None] if images.ndim == 4 else images
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f"images: expected (S, 3, H, W) or (B, S, 3, H, W), got {tuple(images.shape)}")
        p = self.config.aggregator.patch_size
        if images.shape[-2] % p or images.shape[-1] % p:
            raise AssertionError(
                f"images of {images.shape[-2]}×{images.shape[-1]}: {p} must divide both sides"
            )
        return images

    def _cameras(self, tokens: dict[int, Tensor]) -> dict[str, Any]:
        if self.camera_head is None:
            return {}
        encodings = self.camera_head(tokens[self.config.aggregator.depth - 1])
        return {"pose_enc": encodings[-1], "pose_enc_list": encodings}

    def _maps(self, tokens: dict[int, Tensor], size: Size) -> dict[str, Any]:
        out = {}
        for key, head in (("depth", self.depth_head), ("world_points", self.point_head)):
            if head is not None:
                out[key], out[f"{key}_conf"] = head(tokens, self.aggregator.patch_start_idx, size)
        return out

    def stages(self, held: Held) -> Stages:
        """`forward` without tracks, and without an output: for looking at what submodules get."""
        held["inputs"] = self._checked(held["inputs"])
        size = (held["inputs"].shape[-2], held["inputs"].shape[-1])
        aggregator = self.aggregator
        yield from within("aggregator", aggregator.stages(held))
        for name in self._heads():
            if name == "camera_head":
                yield name, lambda: (held[f"tokens.{self.config.aggregator.depth - 1}"],)
            else:
                yield name, lambda: (aggregator.kept(held), aggregator.patch_start_idx, size)

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        return [*(f"aggregator.{name}" for name in self.aggregator.stage_names()), *self._heads()]

    def _heads(self) -> list[str]:
        return [
            name for name in ("camera_head", "depth_head", "point_head") if getattr(self, name) is not None
        ]

    def special_tokens(self, images: Tensor) -> dict[str, tuple[int, int]]:
        """Prefix of layer names to (tokens of a frame, how many of them, from the first, are no patches) in their inputs."""
        a, p = self.config.aggregator, self.config.patch_embed
        patches = (images.shape[-2] // a.patch_size) * (images.shape[-1] // a.patch_size)
        special = self.aggregator.patch_start_idx
        tokens = {f"aggregator.{kind}_blocks.": (special + patches, special) for kind in ("frame", "global")}
        embed = 1 + p.num_register_tokens
        return tokens | {"aggregator.patch_embed.blocks.": (embed + patches, embed), "camera_head.": (1, 1)}

    def features(self, images: Tensor) -> Tensor:
        """What a sequence of frames looks like to the network, (D,): its last patch tokens, averaged. images: as `forward`."""
        kept = self.aggregator(self._checked(images))
        return kept[max(kept)][:, :, self.aggregator.patch_start_idx :].mean((0, 1, 2))

    def norms_before(self) -> dict[str, str]:
        """Linear layer to the LayerNorm whose output it alone reads."""
        blocks = [name for name, module in self.named_modules() if isinstance(module, Block)]
        pairs = (("attn.qkv", "norm1"), ("mlp.fc1", "norm2"))
        return {f"{block}.{linear}": f"{block}.{norm}" for block in blocks for linear, norm in pairs}

    def values_before(self) -> dict[str, tuple[str, int, int]]:
        """Linear layer to the one whose outputs attention averages for it: its name, their first row, the width of a head."""
        found = {}
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                found[f"{name}.proj"] = (f"{name}.qkv", 2 * module.dim, module.dim // module.heads)
        return found

    def first_last_layers(self) -> list[str]:
        """Dotted names of the input convolution and of every existing head's output layers."""
        is_conv = self.config.patch_embed.type == "conv"
        names = ["aggregator.patch_embed.proj" if is_conv else "aggregator.patch_embed.patch_embed.proj"]
        if self.camera_head is not None:
            names.append("camera_head.pose_branch.fc2")
        if self.depth_head is not None:
            names.append("depth_head.scratch.output_conv2.2")
        if self.point_head is not None:
            names.append("point_head.scratch.output_conv2.2")
        if self.track_head is not None:
            tracker = "track_head.tracker"
            names += [
                f"{tracker}.updateformer.flow_head",
                f"{tracker}.vis_predictor.0",
                f"{tracker}.conf_predictor.0",
            ]
        return names


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Camera, depth and point head are trained and evaluated in the tokens' own precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
