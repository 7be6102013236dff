"""VGGT-Ω (arXiv 2605.15195): cameras and depth from images in one pass.

State dict names and shapes are those of the published checkpoints, but for the masks of qkv biases: loading multiplies them
into the biases (`bias_masks`). Left out: training losses and the token layers that no head reads.
"""

import torch
from torch import Tensor, nn

from vggtq.models.network import LIVELY_POSE, Network
from vggtq.models.omega.config import OmegaConfig
from vggtq.models.omega.heads import CameraHead, DepthHead, TextHead
from vggtq.models.omega.vit import SCALE_AT_START, DinoV3, RopePeriods
from vggtq.models.vggt.aggregator import normalise
from vggtq.models.vggt.positions import seen_tokens
from vggtq.models.vggt.vit import Attention, Block
from vggtq.network.stages import Held, Stages, run_stages, within
from vggtq.network.tokens import PREFIX, TokenLayer, batch_of


def _parts(layer: int) -> tuple[str, str]:
    """The names by which heads read the outputs of a layer's frame block and of its block between frames."""
    return f"{PREFIX}{layer}.frame", f"{PREFIX}{layer}.between"


class Aggregator(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] to tokens {layer: (B, S, T₀ + P, 2C)} for the layers that heads read.

    Each frame's tokens are [camera, registers, patches]; a layer's entry is its frame block's output next to that of its block
    between frames. Only frame blocks have positions. The listed blocks between frames see the special tokens alone, and leave
    the patches as they are. local_blocks, key_stride: see `vggtq.network.reduced`.
    """

    local_blocks = 0
    key_stride = 1

    def __init__(self, config: OmegaConfig) -> None:
        super().__init__()
        c = config.aggregator
        self.config, self.keep = c, config.kept_layers()
        self.special = 1 + c.num_register_tokens
        self.patch_embed = DinoV3(c, config.patch_embed)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, c.embed_dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, c.num_register_tokens, c.embed_dim))
        self.rope_embed = RopePeriods(c.embed_dim // c.num_heads)
        self.frame_blocks = self._blocks()
        self.inter_frame_blocks = self._blocks()

    def _blocks(self) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(
            Block(c.embed_dim, c.num_heads, c.mlp_ratio, SCALE_AT_START, qk_norm=True, rope_groups=1)
            for _ in range(c.depth)
        )

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        names = [f"patch_embed.blocks.{i}" for i in range(len(self.patch_embed.blocks))]
        pairs = ((f"frame_blocks.{i}", f"inter_frame_blocks.{i}") for i in range(self.config.depth))
        return [*names, *(name for pair in pairs for name in pair)]

    def kept(self, held: Held, batch: tuple[int, int]) -> dict[int, TokenLayer]:
        """The token layers, after a pass by `stages` of B sequences of S frames; put together when they are asked for."""
        return {i: TokenLayer(held, _parts(i), batch) for i in sorted(self.keep)}

    def stages(self, held: Held) -> Stages:
        batch, frames, _, height, width = held["inputs"].shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        held["inputs"] = normalise(held["inputs"]).flatten(0, 1)
        patches = yield from within("patch_embed", self.patch_embed.stages(held))
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        # Entry 0 is for the reference frame, entry 1 for every other.
        special = special[:, torch.arange(frames, device=special.device).clamp(max=1)]
        patches = patches.unflatten(0, (batch, frames))
        held["x"] = torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2).flatten(0, 1)
        del patches, special
        held["cos"], held["sin"] = self.rope_embed(grid, self.special)
        keys = seen_tokens(grid, self.special, frames, self.key_stride, held["x"].device)
        if keys is not None:
            held["keys"] = keys
        for i in range(self.config.depth):
            held["x"] = yield f"frame_blocks.{i}", lambda: (held["x"], (held["cos"], held["sin"]))
            local, mixed = _parts(i)
            if i in self.keep:
                held[local] = held["x"]
            yield from self._between_frames(held, i, (batch, frames))
            if i in self.keep:
                held[mixed] = held["x"]
        for name in ("x", "cos", "sin"):
            del held[name]
        held.pop("keys", None)

    def _between_frames(self, held: Held, i: int, frames: tuple[int, int]) -> Stages:
        registers = self.config.register_attention_block_indices
        special = self.special if i in registers else None
        alone = special is None and sum(j not in registers for j in range(i)) < self.local_blocks
        batch = (frames[0] * frames[1], 1) if alone else frames
        keys = None if special is not None or alone else held.get("keys")
        held["mixed"] = yield (
            f"inter_frame_blocks.{i}",
            lambda: (held["x"][:, :special].unflatten(0, batch).flatten(1, 2), None, keys),
        )
        mixed = held.pop("mixed").unflatten(1, (batch[1], -1)).flatten(0, 1)
        held["x"] = mixed if special is None else torch.cat([mixed, held["x"][:, special:]], dim=1)


class Omega(Network):
    """Images to a dict of predictions; see `forward`."""

    float32_parts = ("camera_head", "dense_head", "text_alignment_head")
    whole_patches = False  # what is left over at the right and below is not seen

    def __init__(self, config: OmegaConfig) -> None:
        super().__init__()
        self.config, heads = config, config.heads
        dim = 2 * config.aggregator.embed_dim
        self.patch_size = config.aggregator.patch_size
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(dim, config.camera_head) if heads.camera else None
        self.dense_head = DepthHead(dim, self.patch_size, config.dense_head) if heads.depth else None
        self.text_alignment_head = TextHead(dim, config.text_alignment_head) if heads.text else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (S, 3, H, W) or (B, S, 3, H, W), RGB in [0, 1]. Frame 0's camera is the world frame.

        Returns camera_and_register_tokens (B, S, T₀, 2C); pose_enc (B, S, 9); depth (B, S, h, w, 1) and depth_conf
        (B, S, h, w), h and w whole patches; text_alignment_embedding and text_alignment_token (B, 2C); in eval mode also
        images.
        """
        held = self.held(images)
        outputs: dict[str, Tensor] = run_stages(self, self.stages(held))
        return outputs if self.training else outputs | {"images": self.checked(images)}

    def stages(self, held: Held) -> Stages:
        held["inputs"] = self.checked(held["inputs"])
        size: tuple[int, int] = (held["inputs"].shape[-2], held["inputs"].shape[-1])
        batch = batch_of(held["inputs"])
        aggregator = self.aggregator
        yield from within("aggregator", aggregator.stages(held))
        last = aggregator.kept(held, batch)[self.config.aggregator.depth - 1]
        outputs = {"camera_and_register_tokens": last.special(aggregator.special)}
        for name in self._heads():
            if name == "dense_head":
                outputs["depth"], outputs["depth_conf"] = yield (
                    name,
                    lambda: (aggregator.kept(held, batch), aggregator.special, size),
                )
                continue
            told = yield name, lambda: (last.special(aggregator.special),)
            keys = ("text_alignment_embedding", "text_alignment_token")
            outputs |= {"pose_enc": told} if name == "camera_head" else dict(zip(keys, told, strict=True))
        return outputs

    def stage_names(self) -> list[str]:
        """The submodules that `stages` calls, in that order."""
        return [*(f"aggregator.{name}" for name in self.aggregator.stage_names()), *self._heads()]

    def _heads(self) -> list[str]:
        names = ("camera_head", "dense_head", "text_alignment_head")
        return [name for name in names if getattr(self, name) is not None]

    def keeps_tokens(self) -> bool:
        return True

    def global_blocks(self) -> list[str]:
        aggregator = self.config.aggregator
        alone = aggregator.register_attention_block_indices
        return [f"aggregator.inter_frame_blocks.{i}" for i in range(aggregator.depth) if i not in alone]

    def special_tokens(self, images: Tensor) -> dict[str, tuple[int, int]]:
        rows, columns = self.grid(images)
        special, embed = self.aggregator.special, self.aggregator.patch_embed.special
        tokens = {
            f"aggregator.{kind}_blocks.": (special + rows * columns, special)
            for kind in ("frame", "inter_frame")
        }
        alone = {
            f"aggregator.inter_frame_blocks.{i}.": (special, special)
            for i in self.config.aggregator.register_attention_block_indices
        }
        ends = {"camera_head.": (1, 1), "aggregator.patch_embed.blocks.": (embed + rows * columns, embed)}
        return alone | tokens | ends  # the first prefix that fits counts

    def features(self, images: Tensor) -> Tensor:
        images = self.checked(images)
        held: Held = {"inputs": images}
        run_stages(self.aggregator, self.aggregator.stages(held))
        last = self.aggregator.kept(held, batch_of(images))[max(self.aggregator.keep)]
        return last.whole()[:, :, self.aggregator.special :].mean((0, 1, 2))

    def first_last_layers(self) -> list[str]:
        ends = {
            "camera_head": ["camera_head.camera_branch.2"],
            "dense_head": ["dense_head.proj", "dense_head.proj_conf"],
            "text_alignment_head": ["text_alignment_head.embedding_projector.3"],
        }
        return [
            "aggregator.patch_embed.patch_embed.proj",
            *(layer for head in self._heads() for layer in ends[head]),
        ]

    def bias_masks(self) -> dict[str, str]:
        names = [name for name, module in self.named_modules() if isinstance(module, Attention)]
        return {f"{name}.qkv.bias": f"{name}.qkv.bias_mask" for name in names}

    def reset_buffers_(self) -> None:
        for module in self.modules():
            if isinstance(module, RopePeriods):
                module.reset_buffers_()

    def enliven_(self) -> None:
        # Tokens of a millionth distinguish neither the first frame nor a camera from a register.
        for token in (self.aggregator.camera_token, self.aggregator.register_token):
            token.mul_(1e6)
        if self.camera_head is not None:
            last = self.camera_head.camera_branch[2]
            last.get_parameter("bias").copy_(torch.tensor(LIVELY_POSE))
            last.get_parameter("weight").mul_(0.1)
