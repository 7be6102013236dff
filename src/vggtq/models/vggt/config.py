"""Every number that shapes the network, checked before a tensor is allocated; the defaults are VGGT-1B.

One section per part of the network (Wang et al., CVPR 2025): the aggregator, its DINOv2 patch embed, the
camera head, the DPT heads and the tracker; `heads` switches whole heads off.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from vggtq.errors import ConfigError, did_you_mean

LARGEST = 1_000_000  # no number of any network is larger; beyond it, sizes overflow or take forever to build
ANY_LENGTH = {"register_attention_block_indices"}
MAY_BE_ZERO = {
    "num_register_tokens", "num_storage_tokens", "corr_radius", "interpolate_offset", "intermediate_layer_idx", *ANY_LENGTH,
}  # fmt: skip
Sections = TypeVar("Sections")


@dataclass(frozen=True)
class TransformerConfig:
    """`depth` blocks of width `embed_dim` on patches and registers."""

    img_size: int = 518  # pixels; only the size of the stored position table depends on it
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4


@dataclass(frozen=True)
class AggregatorConfig(TransformerConfig):
    """Alternating attention: `depth` frame blocks and as many global blocks."""

    rope_freq: float = 100.0
    init_values: float = 0.01


@dataclass(frozen=True)
class PatchEmbedConfig(TransformerConfig):
    """`dinov2`: a ViT with registers; `conv`: only its patch convolution."""

    type: str = "dinov2"
    interpolate_antialias: bool = True
    interpolate_offset: float = 0.0
    init_values: float = 1.0
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class CameraHeadConfig:
    """Iterative pose regression from the camera tokens."""

    trunk_depth: int = 4
    num_heads: int = 16
    num_iterations: int = 4


@dataclass(frozen=True)
class DPTConfig:
    """Shared by the depth head, the point head and (but for `features`) the track feature extractor."""

    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    intermediate_layer_idx: tuple[int, ...] = (4, 11, 17, 23)


@dataclass(frozen=True)
class TrackHeadConfig:
    """CoTracker-style point tracker; `stride` is image pixels per feature-map pixel."""

    features: int = 128
    stride: int = 2
    corr_levels: int = 7
    corr_radius: int = 4
    hidden_size: int = 384
    depth: int = 6
    updateformer_num_heads: int = 8
    num_virtual_tracks: int = 64
    max_scale: int = 518
    iters: int = 4


@dataclass(frozen=True)
class HeadsConfig:
    """The heads that exist; one that is off has no parameters and adds no outputs."""

    camera: bool = True
    depth: bool = True
    point: bool = True
    track: bool = True


@dataclass(frozen=True)
class VGGTConfig:
    """The whole network; `VGGTConfig()` is VGGT-1B."""

    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    patch_embed: PatchEmbedConfig = field(default_factory=PatchEmbedConfig)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dpt: DPTConfig = field(default_factory=DPTConfig)
    track_head: TrackHeadConfig = field(default_factory=TrackHeadConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        _check_aggregator(self.aggregator)
        _check_patch_embed(self.patch_embed, self.aggregator)
        _check_heads(self)

    def kept_layers(self) -> frozenset[int]:
        """Indices of the aggregator's layers that some head reads."""
        dense = self.heads.depth or self.heads.point or self.heads.track
        kept = set(self.dpt.intermediate_layer_idx) if dense else set()
        return frozenset(kept | ({self.aggregator.depth - 1} if self.heads.camera else set()))


def parse_config(config: Mapping[str, Any] | None) -> VGGTConfig:
    """Reads the nested dict; a missing key takes VGGT-1B's value. Raises ConfigError."""
    return parse(VGGTConfig, config)


def parse(kind: type[Sections], config: Mapping[str, Any] | None) -> Sections:
    """The same for the configuration of another network: a dataclass of dataclasses. Raises ConfigError."""
    sections: dict[str, Any] = {f.name: f.default_factory for f in fields(kind)}  # type: ignore[arg-type]
    values = _mapping("model config", {} if config is None else config)
    _refuse_unknown("model config", values, sections)
    return kind(**{name: _section(sections[name], name, values[name]) for name in values})


def _section(cls: Any, section: str, values: Any) -> Any:
    values = _mapping(section, values)
    defaults = {f.name: f.default for f in fields(cls)}
    _refuse_unknown(section, values, defaults)
    return cls(**{key: _value(section, key, value, defaults[key]) for key, value in values.items()})


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name}: expected a mapping of keys to values, got {reprlib.repr(values)}")
    return values


def _refuse_unknown(name: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; valid keys: {', '.join(known)}"
            raise ConfigError(f"{name}: unknown key {reprlib.repr(key)}{hint}")


def _value(section: str, key: str, value: Any, default: Any) -> Any:
    """Checks one value against the type of its default and, for numbers, against the bounds."""
    name = f"{section}.{key}"
    if isinstance(default, tuple):
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_list or (len(value) != len(default) and key not in ANY_LENGTH):
            raise ConfigError(f"{name}: expected {len(default)} integers, got {reprlib.repr(value)}")
        return tuple(_value(section, key, item, default[0]) for item in value)
    if isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            raise ConfigError(f"{name}: expected a {type(default).__name__}, got {reprlib.repr(value)}")
        return value
    allowed = (int, float) if isinstance(default, float) else (int,)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, allowed) or infinite:
        raise ConfigError(f"{name}: expected a finite {type(default).__name__}, got {reprlib.repr(value)}")
    if value < 0 or (value == 0 and key not in MAY_BE_ZERO):
        raise ConfigError(f"{name}: {reprlib.repr(value)} is too small; give a positive number")
    if value > LARGEST:
        raise ConfigError(f"{name}: {reprlib.repr(value)} is too large; give {LARGEST} at most")
    return type(default)(value)


def divides(dividend: int, divisor: int, what: str, remedy: str) -> None:
    """Raises ConfigError unless it does."""
    if dividend % divisor:
        raise ConfigError(f"{what}: {divisor} does not divide {dividend}; {remedy}")


def _check_transformer(section: str, c: TransformerConfig) -> None:
    divides(c.img_size, c.patch_size, f"{section}.patch_size and img_size", "give a multiple")
    divides(c.embed_dim, c.num_heads, f"{section}.num_heads and embed_dim", "change one of the two")
    check_hidden(section, c.embed_dim, c.mlp_ratio)


def _check_aggregator(a: AggregatorConfig) -> None:
    _check_transformer("aggregator", a)
    head = a.embed_dim // a.num_heads
    divides(head, 4, "aggregator head width (embed_dim / num_heads)", "rotary embedding needs quarters")


def _check_patch_embed(p: PatchEmbedConfig, a: AggregatorConfig) -> None:
    if p.type not in ("dinov2", "conv"):
        hint = did_you_mean(p.type, ("dinov2", "conv"))
        raise ConfigError(f"patch_embed.type: {p.type!r} is neither dinov2 nor conv{hint}")
    for key in ("embed_dim", "patch_size", "img_size"):
        ours, theirs = getattr(p, key), getattr(a, key)
        if ours != theirs:
            raise ConfigError(f"patch_embed.{key} {ours} differs from aggregator.{key} {theirs}; set both")
    _check_transformer("patch_embed", p)


def check_hidden(section: str, width: int, mlp_ratio: float) -> None:
    """Raises ConfigError where an MLP would be empty."""
    if width * mlp_ratio < 1:
        raise ConfigError(
            f"{section}.mlp_ratio: {mlp_ratio} leaves no hidden layer at embed_dim {width}; 4 is usual"
        )


def _check_heads(c: VGGTConfig) -> None:
    heads = c.heads
    if not (heads.camera or heads.depth or heads.point or heads.track):
        raise ConfigError("heads: all four are off, so the network would return nothing; switch one on")
    if heads.camera:
        width = 2 * c.aggregator.embed_dim
        divides(width, c.camera_head.num_heads, "camera_head.num_heads and 2·embed_dim", "change either")
    if heads.depth or heads.point or heads.track:
        for index in c.dpt.intermediate_layer_idx:
            if index >= c.aggregator.depth:
                raise ConfigError(
                    f"dpt.intermediate_layer_idx: {index} is out of range for aggregator.depth "
                    f"{c.aggregator.depth}; use 0 to {c.aggregator.depth - 1}"
                )
    if heads.depth or heads.point:
        rule = "the positional term has sine and cosine for two axes"
        divides(c.dpt.features, 8, "dpt.features", rule)
        for channels in c.dpt.out_channels:
            divides(channels, 4, "dpt.out_channels", rule)
    if heads.track:
        t = c.track_head
        divides(t.features, 4, "track_head.features", "it is split into four parts for two axes")
        divides(
            t.hidden_size,
            t.updateformer_num_heads,
            "track_head heads and hidden_size",
            "change one of the two",
        )
