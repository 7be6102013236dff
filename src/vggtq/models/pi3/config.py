"""Every number that shapes Pi3 and Pi3X; the defaults are the published networks (Wang et al. 2025, arXiv 2507.13347)."""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError
from vggtq.models.vggt.config import PatchEmbedConfig, check_hidden, divides


@dataclass(frozen=True)
class DecoderConfig:
    """`depth` blocks in turn over one frame and over all; the encoder has the same width."""

    embed_dim: int = 1024
    depth: int = 36
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 5
    rope_freq: float = 100.0
    init_values: float = 0.01


@dataclass(frozen=True)
class HeadsConfig:
    """The transformers in front of the heads, of `depth` blocks each, and their outputs."""

    embed_dim: int = 1024
    depth: int = 5
    num_heads: int = 16
    point_out: int = 1024  # of the points' and the confidence's
    camera_out: int = 512


@dataclass(frozen=True)
class ConvHeadConfig:
    """Pi3X's convolutional heads: width of each doubling of the resolution, and in front of the output."""

    widths: tuple[int, ...] = (256, 128, 64)
    hidden: int = 32


@dataclass(frozen=True)
class MetricConfig:
    """Pi3X's decoder of one metric scale per sequence."""

    embed_dim: int = 512
    depth: int = 5
    num_heads: int = 8


@dataclass(frozen=True)
class Pi3Config:
    """The whole network; `Pi3Config()` is the published Pi3."""

    encoder: PatchEmbedConfig = field(default_factory=PatchEmbedConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        e, d, h = self.encoder, self.decoder, self.heads
        if e.type != "dinov2":
            raise ConfigError(f"encoder.type: {e.type!r} is not dinov2, the only one that Pi3 has")
        if e.embed_dim != d.embed_dim:
            raise ConfigError(
                f"encoder.embed_dim {e.embed_dim} differs from decoder.embed_dim {d.embed_dim}; set both"
            )
        divides(d.depth, 2, "decoder.depth", "frame and global blocks alternate")
        divides(e.img_size, e.patch_size, "encoder.patch_size and img_size", "give a multiple")
        for name, part in (("encoder", e), ("decoder", d), ("heads", h)):
            divides(
                part.embed_dim, part.num_heads, f"{name}.num_heads and embed_dim", "change one of the two"
            )
        for name, rotary in (("decoder", d), ("heads", h)):
            divides(
                rotary.embed_dim // rotary.num_heads,
                4,
                f"{name}: width of an attention head",
                "rotary embedding needs quarters",
            )
        check_hidden("encoder", e.embed_dim, e.mlp_ratio)
        check_hidden("decoder", d.embed_dim, d.mlp_ratio)


@dataclass(frozen=True)
class Pi3XConfig(Pi3Config):
    """The whole network; `Pi3XConfig()` is the published Pi3X without its optional conditions."""

    conv_head: ConvHeadConfig = field(default_factory=ConvHeadConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for width in self.conv_head.widths:
            divides(width, 16, "conv_head.widths", "group norms need 16 channels a group")
        m = self.metric
        divides(m.embed_dim, m.num_heads, "metric.num_heads and embed_dim", "change one of the two")
        divides(
            m.embed_dim // m.num_heads,
            4,
            "metric: width of an attention head",
            "rotary embedding needs quarters",
        )
