"""Pi3 (Wang et al. 2025, arXiv 2507.13347): local points and cameras without a reference frame.

All frames have the same special tokens, so that permuting frames permutes the outputs. State dict names and shapes are those of
the published `yyfz233/Pi3` checkpoint. Left out: training losses.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.geometry import invert_se3
from vggtq.models.network import Network, without_autocast
from vggtq.models.pi3.config import Pi3Config
from vggtq.models.pi3.heads import CameraHead, HeadTransformer, ShuffleHead, Size
from vggtq.models.vggt.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggtq.models.vggt.positions import rope_table, seen_tokens
from vggtq.models.vggt.vit import Block, DinoV2
from vggtq.network.stages import Held, Stages, run_stages, within

HEADS = ("point", "conf", "camera")


class Pi3(Network):
    """Images to a dict of predictions; see `forward`."""

    image_mean: Tensor
    image_std: Tensor
    float32_parts = ("point_head", "conf_head", "camera_head")
    local_blocks = 0
    key_stride = 1

    def __init__(self, config: Pi3Config) -> None:
        super().__init__()
        self.config = config
        c, heads = config.decoder, config.heads
        self.patch_size = config.encoder.patch_size
        self.register_buffer("image_mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("image_std", torch.ones(1, 3, 1, 1))
        self.register_token = nn.Parameter(torch.zeros(1, 1, c.num_register_tokens, c.embed_dim))
        self.encoder = DinoV2(config.encoder, mask_token=False)
        self.decoder = nn.ModuleList(
            Block(c.embed_dim, c.num_heads, c.mlp_ratio, c.init_values, eps=1e-6, qk_norm=True)
            for _ in range(c.depth)
        )
        self.point_decoder = HeadTransformer(2 * c.embed_dim, heads.point_out, heads)
        self.conf_decoder = HeadTransformer(2 * c.embed_dim, heads.point_out, heads)
        self.camera_decoder = HeadTransformer(2 * c.embed_dim, heads.camera_out, heads)
        self.point_head: nn.Module = ShuffleHead(heads.point_out, 3, self.patch_size)
        self.conf_head: nn.Module = ShuffleHead(heads.point_out, 1, self.patch_size)
        self.camera_head = CameraHead(heads.camera_out)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (S, 3, H, W) or (B, S, 3, H, W), RGB in [0, 1].

        Returns local_points (B, S, H, W, 3) in each frame's own camera, OpenCV axes; conf (B, S, H, W, 1), a logit;
        camera_poses (B, S, 4, 4), camera to world; points (B, S, H, W, 3), local_points moved by them. World frame and scale
        are arbitrary.
        """
        outputs: dict[str, Tensor] = run_stages(self, self.stages({"inputs": images}))
        return outputs

    def stages(self, held: Held) -> Stages:
        images = self.checked(held["inputs"])
        frames, grid = images.shape[:2], self.grid(images)
        yield from self._tokens(held, images)
        yield from self._decoded(held, frames, grid)
        c = self.config.heads
        special = self.config.decoder.num_register_tokens
        self._enter_rope(held, grid, c.embed_dim // c.num_heads)
        for name in HEADS:
            part: HeadTransformer = getattr(self, f"{name}_decoder")
            features = yield from within(f"{name}_decoder", part.stages(held))
            held["features"] = features[:, special:]
            del features
            inputs = () if name == "camera" else (grid,)
            held[name] = yield f"{name}_head", partial(_arguments, held, "features", inputs)
        yield from self._scale(held, frames, grid)
        with without_autocast(held["point"].device):
            return self._outputs(held, frames)

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        names = [f"encoder.blocks.{i}" for i in range(len(self.encoder.blocks))]
        names += [f"decoder.{i}" for i in range(len(self.decoder))]
        for name in HEADS:
            inside: HeadTransformer = getattr(self, f"{name}_decoder")
            names += [*(f"{name}_decoder.{stage}" for stage in inside.stage_names()), f"{name}_head"]
        return names

    def _tokens(self, held: Held, images: Tensor) -> Stages:
        """held["x"]: (B·S, N, C), registers before the patch tokens of each frame."""
        held["inputs"] = ((images - self.image_mean) / self.image_std).flatten(0, 1)
        del images
        patches = yield from within("encoder", self.encoder.stages(held))
        held["x"] = torch.cat([self.register_token[0].expand(len(patches), -1, -1), patches], dim=1)

    def _decoded(self, held: Held, frames: torch.Size, grid: Size) -> Stages:
        """held["y"]: (B·S, N, 2C), the outputs of the last frame block and the last global block side by side."""
        c = self.config.decoder
        self._enter_rope(held, grid, c.embed_dim // c.num_heads)
        seen = seen_tokens(grid, c.num_register_tokens, frames[1], self.key_stride, held["x"].device)
        if seen is not None:
            held["seen"] = seen
        shapes = held["x"].shape, (frames[0], frames[1] * held["x"].shape[1], c.embed_dim)
        for i in range(c.depth):
            # The same positions in every frame: rotary angles do not tell frames apart.
            together = i % 2 == 1 and i // 2 >= self.local_blocks
            times = frames[1] if together else 1
            held["x"] = yield f"decoder.{i}", partial(_block_arguments, held, shapes[together], times)
            if i == c.depth - 2:
                held["local"] = held["x"].reshape(shapes[0])
        held.pop("seen", None)
        held["y"] = torch.cat([held.pop("local"), held.pop("x").reshape(shapes[0])], dim=-1)

    def _enter_rope(self, held: Held, grid: Size, head_width: int) -> None:
        c = self.config.decoder
        device = self.register_token.device
        held["cos"], held["sin"] = rope_table(grid, c.num_register_tokens, head_width, c.rope_freq, device)

    def _scale(self, held: Held, frames: torch.Size, grid: Size) -> Stages:
        """Pi3's scale is arbitrary."""
        yield from ()

    def _outputs(self, held: Held, frames: torch.Size) -> dict[str, Tensor]:
        xy, log_z = held["point"].split([2, 1], dim=-1)
        local = scaled_rays(xy, log_z.exp())
        poses = held["camera"]
        out = {
            "points": moved(poses, local),
            "local_points": local,
            "conf": held["conf"],
            "camera_poses": poses,
        }
        return {name: tensor.unflatten(0, frames) for name, tensor in out.items()}

    def common_outputs(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The world frame, which is arbitrary, becomes the first camera's. Without a field of view there is no pose_enc."""
        poses = outputs["camera_poses"]
        with without_autocast(poses.device):
            to_first = invert_se3(poses[:, :1])
            return {
                "extrinsics": invert_se3(to_first @ poses)[..., :3, :],
                "depth": outputs["local_points"][..., 2:],
                "depth_conf": outputs["conf"][..., 0].sigmoid(),
                "world_points": moved(to_first, outputs["points"]),
            }

    def global_blocks(self) -> list[str]:
        return [f"decoder.{i}" for i in range(1, self.config.decoder.depth, 2)]

    def special_tokens(self, images: Tensor) -> dict[str, tuple[int, int]]:
        rows, columns = self.grid(images)
        inside, own = 1 + self.config.encoder.num_register_tokens, self.config.decoder.num_register_tokens
        prefixes = ("decoder.", *(f"{name}_decoder." for name in HEADS))
        tokens = dict.fromkeys(prefixes, (own + rows * columns, own))
        return tokens | {"encoder.blocks.": (inside + rows * columns, inside)}

    def features(self, images: Tensor) -> Tensor:
        images = self.checked(images)
        held: Held = {}
        frames, grid = images.shape[:2], self.grid(images)

        def decoded() -> Stages:
            yield from self._tokens(held, images)
            yield from self._decoded(held, frames, grid)

        run_stages(self, decoded())
        return held["y"][:, self.config.decoder.num_register_tokens :].mean((0, 1))

    def first_last_layers(self) -> list[str]:
        ends = ("point_head.proj", "conf_head.proj", "camera_head.fc_t", "camera_head.fc_rot")
        return ["encoder.patch_embed.proj", *ends]

    def reset_buffers_(self) -> None:
        for buffer, values in ((self.image_mean, IMAGENET_MEAN), (self.image_std, IMAGENET_STD)):
            buffer.copy_(buffer.new_tensor(values).view(1, 3, 1, 1))

    def enliven_(self) -> None:
        """A camera near the identity, and rays that widen within each patch, so that a focal length can be fitted to them."""
        self._enliven_camera()
        p, head = self.patch_size, self.point_head
        assert isinstance(head, ShuffleHead)
        ramp = (torch.arange(p) - (p - 1) / 2) / self.config.encoder.img_size
        bias = torch.stack([ramp[None].expand(p, p), ramp[:, None].expand(p, p), torch.zeros(p, p)])
        head.proj.get_parameter("bias").copy_(bias.flatten())
        head.proj.get_parameter("weight")[: 2 * p * p] *= 0.01

    def _enliven_camera(self) -> None:
        for layer, bias in ((self.camera_head.fc_t, torch.zeros(3)), (self.camera_head.fc_rot, torch.eye(3))):
            layer.get_parameter("bias").copy_(bias.flatten())
            layer.get_parameter("weight").mul_(0.1)


def _arguments(held: Held, name: str, more: tuple[Any, ...]) -> tuple[Any, ...]:
    return (held[name], *more)


def _block_arguments(held: Held, shape: Sequence[int], times: int) -> tuple[Any, ...]:
    """The tokens in the shape that a block runs in, the rotary table of one frame, `times` over, and which tokens are keys."""
    seen = held.get("seen") if times > 1 else None
    return held["x"].reshape(shape), (held["cos"].repeat(times, 1), held["sin"].repeat(times, 1)), seen


def scaled_rays(xy: Tensor, z: Tensor) -> Tensor:
    """(…, 2) ratios to the optical axis and (…, 1) depth to points (…, 3)."""
    return torch.cat([xy * z, z], dim=-1)


def moved(poses: Tensor, points: Tensor) -> Tensor:
    """points (…, H, W, 3) by poses (…, 4, 4): R·x + t."""
    return points @ poses[..., None, :3, :3].mT + poses[..., None, None, :3, 3]
