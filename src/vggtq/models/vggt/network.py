"""VGGT (Wang et al., CVPR 2025): cameras, depth, points and tracks from images in one pass.

State dict names and shapes are those of the published `facebook/VGGT-1B` checkpoint. Left out: training
losses and the token layers that no head reads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vggtq.models.network import LIVELY_POSE, Network, without_autocast
from vggtq.models.vggt.aggregator import Aggregator
from vggtq.models.vggt.camera import CameraHead
from vggtq.models.vggt.config import VGGTConfig, parse_config
from vggtq.models.vggt.dpt import DenseHead, Size, signed_expm1
from vggtq.models.vggt.track import TrackHead
from vggtq.network.stages import Held, Stages, run_stages, within
from vggtq.network.tokens import Layers, batch_of, special_of

# Their output layers.
HEADS = {
    "camera_head": ("pose_branch.fc2",),
    "depth_head": ("scratch.output_conv2.2",),
    "point_head": ("scratch.output_conv2.2",),
    "track_head": ("tracker.updateformer.flow_head", "tracker.vis_predictor.0", "tracker.conf_predictor.0"),
}


def build(config: Mapping[str, Any] | None = None) -> "VGGT":
    """The network in eval mode; keys that `config` leaves out take VGGT-1B's values. Raises ConfigError.

    Its parameters are placeholders: fill them with `load_weights_` or `initialize_`. Under
    `torch.device("meta")` nothing is allocated.
    """
    return VGGT(parse_config(config)).eval()


class VGGT(Network):
    """Images to a dict of predictions; see `forward`."""

    float32_parts = ("camera_head", "point_head", "depth_head", "track_head")

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        a, heads = config.aggregator, config.heads
        dim, p = 2 * a.embed_dim, a.patch_size
        self.patch_size = p
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
        images = self.checked(images)
        size = (images.shape[-2], images.shape[-1])
        held = self.held(images)
        run_stages(self.aggregator, self.aggregator.stages(held))
        tokens = self.aggregator.kept(held, batch_of(images))
        with without_autocast(images.device):
            out = self._cameras(tokens) | self._maps(tokens, size)
        if self.track_head is not None and query_points is not None:
            points = query_points if query_points.ndim == 3 else query_points[None]
            tracked = self.track_head(tokens, self.aggregator.patch_start_idx, size, points)
            out |= dict(zip(("track", "vis", "conf"), tracked, strict=True))
        return out if self.training else out | {"images": images}

    def _cameras(self, tokens: Layers) -> dict[str, Any]:
        if self.camera_head is None:
            return {}
        encodings = self.camera_head(special_of(tokens[self.config.aggregator.depth - 1], 1))
        return {"pose_enc": encodings[-1], "pose_enc_list": encodings}

    def _maps(self, tokens: Layers, size: Size) -> dict[str, Any]:
        out = {}
        for key, head in (("depth", self.depth_head), ("world_points", self.point_head)):
            if head is not None:
                out[key], out[f"{key}_conf"] = head(tokens, self.aggregator.patch_start_idx, size)
        return out

    def stages(self, held: Held) -> Stages:
        """`forward` in stages, without tracks and without an output: for observing the inputs of submodules."""
        held["inputs"] = self.checked(held["inputs"])
        size, batch = (held["inputs"].shape[-2], held["inputs"].shape[-1]), batch_of(held["inputs"])
        aggregator = self.aggregator
        yield from within("aggregator", aggregator.stages(held))
        for name in self._heads():
            if name == "camera_head":
                yield name, lambda: (aggregator.kept(held, batch)[max(aggregator.keep)].special(1),)
            else:
                yield name, lambda: (aggregator.kept(held, batch), aggregator.patch_start_idx, size)

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        return [*(f"aggregator.{name}" for name in self.aggregator.stage_names()), *self._heads()]

    def _heads(self) -> list[str]:
        return [name for name in HEADS if name != "track_head" and getattr(self, name) is not None]

    def keeps_tokens(self) -> bool:
        return True

    def global_blocks(self) -> list[str]:
        return [f"aggregator.global_blocks.{i}" for i in range(self.config.aggregator.depth)]

    def special_tokens(self, images: Tensor) -> dict[str, tuple[int, int]]:
        p, (rows, columns) = self.config.patch_embed, self.grid(images)
        patches = rows * columns
        special = self.aggregator.patch_start_idx
        tokens = {f"aggregator.{kind}_blocks.": (special + patches, special) for kind in ("frame", "global")}
        embed = 1 + p.num_register_tokens
        return tokens | {"aggregator.patch_embed.blocks.": (embed + patches, embed), "camera_head.": (1, 1)}

    def features(self, images: Tensor) -> Tensor:
        kept = self.aggregator(self.checked(images))
        return kept[max(kept)][:, :, self.aggregator.patch_start_idx :].mean((0, 1, 2))

    def first_last_layers(self) -> list[str]:
        is_conv = self.config.patch_embed.type == "conv"
        names = ["aggregator.patch_embed.proj" if is_conv else "aggregator.patch_embed.patch_embed.proj"]
        return names + [f"{head}.{name}" for head in HEADS if getattr(self, head) for name in HEADS[head]]

    def leave_out_points_(self) -> None:
        self.point_head = None

    def enliven_(self) -> None:
        if self.camera_head is not None:
            head, out = self.camera_head, self.camera_head.pose_branch.fc2
            # Every iteration adds the bias once more; smaller weights keep the sum near it, and fields of view below π.
            out.bias.copy_(out.bias.new_tensor(LIVELY_POSE) / head.num_iterations)
            out.weight.mul_(0.1)
        for dense in (self.depth_head, self.point_head):
            if dense is not None:
                # At the default scale a depth map varies by one percent; ten times that is worth looking at.
                dense.scratch.output_conv2[2].get_parameter("weight").mul_(10)
