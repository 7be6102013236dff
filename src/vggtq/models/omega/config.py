"""Every number that shapes VGGT-Ω (arXiv 2605.15195); the defaults are the published 1B network of the 512 checkpoint."""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError
from vggtq.models.vggt.config import DPTConfig, check_hidden, divides


@dataclass(frozen=True)
class AggregatorConfig:
    """`depth` frame blocks and as many blocks between frames; the listed ones of the latter see special tokens
    only.
    """

    patch_size: int = 16
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 16
    register_attention_block_indices: tuple[int, ...] = (2, 6, 9, 14, 20)


@dataclass(frozen=True)
class PatchEmbedConfig:
    """A DINOv3-style ViT as wide as the aggregator."""

    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_storage_tokens: int = 4


@dataclass(frozen=True)
class CameraHeadConfig:
    """The blocks over special tokens in front of the cameras."""

    trunk_depth: int = 4
    num_heads: int = 16


@dataclass(frozen=True)
class TextConfig:
    """The text alignment head, which only the 256 checkpoint has."""

    depth: int = 4
    num_heads: int = 16


@dataclass(frozen=True)
class HeadsConfig:
    """The heads that exist; one that is off has no parameters and adds no outputs."""

    camera: bool = True
    depth: bool = True
    text: bool = False


@dataclass(frozen=True)
class OmegaConfig:
    """The whole network."""

    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    patch_embed: PatchEmbedConfig = field(default_factory=PatchEmbedConfig)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dense_head: DPTConfig = field(default_factory=DPTConfig)
    text_alignment_head: TextConfig = field(default_factory=TextConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        a = self.aggregator
        width = a.embed_dim
        divides(
            a.patch_size, 4, "aggregator.patch_size", "the depth head ends at a quarter of the resolution"
        )
        for name, dim, heads, rotary in (
            ("aggregator", width, a.num_heads, True),
            ("patch_embed", width, self.patch_embed.num_heads, True),
            ("camera_head", 2 * width, self.camera_head.num_heads, False),
            ("text_alignment_head", 2 * width, self.text_alignment_head.num_heads, False),
        ):
            divides(dim, heads, f"{name}.num_heads and width", "change one of the two")
            if rotary:
                divides(
                    dim // heads, 4, f"{name}: width of an attention head", "rotary embedding needs quarters"
                )
        for name, ratio in (("aggregator", a.mlp_ratio), ("patch_embed", self.patch_embed.mlp_ratio)):
            check_hidden(name, width, ratio)
        self._check_layers()

    def _check_layers(self) -> None:
        depth, dense = self.aggregator.depth, self.dense_head
        for name, indices in (
            ("aggregator.register_attention_block_indices", self.aggregator.register_attention_block_indices),
            ("dense_head.intermediate_layer_idx", dense.intermediate_layer_idx if self.heads.depth else ()),
        ):
            if wrong := [index for index in indices if index >= depth]:
                raise ConfigError(
                    f"{name}: {wrong[0]} is out of range for aggregator.depth {depth}; use 0 to {depth - 1}"
                )
        for channels in (dense.features, *dense.out_channels):
            divides(
                channels, 4, "dense_head channels", "the positional term has sine and cosine for two axes"
            )
        if not (self.heads.camera or self.heads.depth or self.heads.text):
            raise ConfigError("heads: all are off, so the network would return nothing; switch one on")

    def kept_layers(self) -> frozenset[int]:
        """Indices of the aggregator's layers that some head reads."""
        kept = set(self.dense_head.intermediate_layer_idx) if self.heads.depth else set()
        return frozenset(kept | {self.aggregator.depth - 1})
