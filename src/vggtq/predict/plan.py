"""The memory that a prediction of VGGT needs, from shapes alone, and the levers that bring it below a budget.

Blocks run in chunks here, so that only few things grow with the number of frames: the residual stream, the
output of a block, keys and values, the tokens that wait for the heads, maps. The other memory of a chunk is
counted tensor by tensor, once for the widest moment of a block and for those of a dense head.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vggtq.models.vggt.network import VGGT
from vggtq.network.memory import CHUNK_TOKENS, KEY_BLOCK, Memory
from vggtq.predict.per_frame import MOST_VALUES
from vggtq.predict.windows.features import AT_A_TIME as COMPARED

GIB = 2**30
MIB = 2**20
FLOAT = 4  # bytes
BLOCK_WIDTHS = (
    13  # tensors (tokens, C) in the widest moment of a block with its MLP four times as wide, see `_chunk`
)
LIBRARIES = 48 * MIB  # loaded and kept by kernels when they are first used
SHEET = 48 * MIB  # for drawing the preview
HEAD_SCRATCH = 40 * MIB  # of convolutions, beside a copy of their weights
BLOCK_SCRATCH = 8 * MIB  # of products
FRAME_WIDTHS = 64  # numbers of a pixel while points of one frame are made and coloured
TEXT = 2**14  # of each image in indexes and lists of cameras
UNCOUNTED = 32  # one part in so many, of everything: pages that are begun, small tensors
MAPPED = 64 * MIB  # of the file while it is read

LADDER = (
    Memory(chunk_tokens=CHUNK_TOKENS),
    *(Memory(head_frames, chunk_tokens=CHUNK_TOKENS) for head_frames in (4, 2, 1)),
    *(Memory(1, tokens, CHUNK_TOKENS) for tokens in ("bfloat16", "disk")),
    *(Memory(1, "disk", chunk) for chunk in (1024, KEY_BLOCK)),
    Memory(1, "disk", KEY_BLOCK, "int8"),
)
"""Levers from few to many. Chunks of tokens are in all of them: they change nothing and cost no time."""


@dataclass(frozen=True)
class Shapes:
    """The properties of a network and its inputs that determine the memory. dim: C of a token; kept: layers
    that heads read.
    """

    dim: int
    heads: int
    mlp_ratio: float
    special: int
    registers: int
    depth: int
    patch: int
    kept: tuple[int, ...]
    features: int
    channels: tuple[int, ...]
    outputs: tuple[int, ...]
    int8_attention: bool

    @classmethod
    def of(cls, network: VGGT, int8_attention: bool = False) -> "Shapes":
        """The track head is left out, which no prediction runs."""
        a, config = network.config.aggregator, network.config
        outputs = ((2, network.depth_head), (4, network.point_head))
        return cls(
            a.embed_dim,
            a.num_heads,
            max(a.mlp_ratio, config.patch_embed.mlp_ratio),
            network.aggregator.patch_start_idx,
            config.patch_embed.num_register_tokens,
            a.depth,
            a.patch_size,
            tuple(sorted(config.kept_layers())),
            config.dpt.features,
            config.dpt.out_channels,
            tuple(count for count, head in outputs if head is not None),
            int8_attention,
        )


@dataclass(frozen=True)
class Stage:
    """A moment of the prediction. parts: bytes beside the process and the weights, by their purpose."""

    name: str
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """process: bytes before the model is loaded, images included. frames: seen together, of a window where there are more."""

    memory: Memory
    frames: int
    images: int
    process: int
    weights: int
    stages: tuple[Stage, ...]

    @property
    def widest(self) -> Stage:
        """The stage that takes most."""
        return max(self.stages, key=lambda stage: stage.bytes)

    @property
    def bytes(self) -> int:
        """The peak of resident memory."""
        added = LIBRARIES + self.weights + self.widest.bytes
        return self.process + added + added // UNCOUNTED

    def lines(self) -> list[str]:
        """For people, in GiB."""
        fixed = (
            f"process and images {gib(self.process)}, libraries {gib(LIBRARIES)}, weights {gib(self.weights)}"
        )
        stages = [
            f"  {stage.name} {gib(stage.bytes)}: "
            + ", ".join(f"{name} {gib(size)}" for name, size in stage.parts.items())
            for stage in self.stages
        ]
        windows = f"; windows of {self.frames} images" if self.frames < self.images else ""
        peak = f"peak {gib(self.bytes)} GiB, in {self.widest.name}; {self.memory.label}{windows}"
        return [f"{fixed} GiB, and one after the other", *stages, peak]


def gib(size: int) -> str:
    """In GiB.

    >>> gib(2**30 * 3 // 2)
    '1.50'
    """
    return f"{size / GIB:.2f}"


def plan(
    shapes: Shapes,
    frames: int,
    size_hw: tuple[int, int],
    memory: Memory,
    process: int,
    weights: int,
    loading: int = 0,
    images: int | None = None,
) -> Plan:
    """The memory of a prediction whose network sees `frames` images together, with these levers.

    loading: bytes that only loading needs. images: their number; if there are more than `frames`, they are seen
    in windows, and `process` counts the images of one window only.
    """
    loads = Stage("loading", {"tensors on their way": loading})
    network = (
        _embedding(shapes, frames, size_hw, memory),
        _blocks(shapes, frames, size_hw, memory),
        _heads(shapes, frames, size_hw, memory),
    )
    if images is None or images <= frames:
        at_once = (loads, *network, _writing(shapes, frames, size_hw, weights))
        return Plan(memory, frames, frames, process, weights, at_once)
    compared = replace(_embedding(shapes, COMPARED, size_hw, memory), name="comparing images")
    kept, written = _keeping(shapes, frames, size_hw), _writing_frames(frames, images, size_hw, weights)
    return Plan(memory, frames, images, process, weights, (loads, compared, *network, kept, written))


def choices(wanted: Memory) -> Iterator[Memory]:
    """The ladder, with what is set in `wanted` as it is there."""
    default = Memory()
    own = {name: value for name, value in vars(wanted).items() if value != getattr(default, name)}
    seen: list[Memory] = []
    for step in LADDER:
        memory = replace(step, **own)
        if memory not in seen:
            seen.append(memory)
            yield memory


def largest(planned: Callable[[int], Plan], budget: int) -> int:
    """The most images that fit into `budget` bytes, 0 for none. planned: the plan of a number of images."""
    low, high = 0, 1
    while planned(high).bytes <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if planned(middle).bytes <= budget else (low, middle)
    return low


def image_bytes(size_hw: tuple[int, int]) -> int:
    """Of one image in float32."""
    return 3 * size_hw[0] * size_hw[1] * FLOAT


def _grid(shapes: Shapes, size_hw: tuple[int, int]) -> tuple[int, int]:
    return size_hw[0] // shapes.patch, size_hw[1] // shapes.patch


def _chunk(shapes: Shapes, memory: Memory, frames: int, tokens: int) -> int:
    """Of a call of a block on frames of so many tokens, besides its input and its output.

    Keys are rotated beside norm1, q, k, v, normalised q and k, rotated q and four more; the MLP has x, norm2, its output and
    twice its hidden width. Codes of quantized inputs add less than one.
    """
    assert memory.chunk_tokens is not None
    together = memory.chunk_tokens // tokens * tokens or memory.chunk_tokens
    widths = max(BLOCK_WIDTHS, math.ceil(3 + 2 * shapes.mlp_ratio))
    return widths * min(together, frames * tokens) * shapes.dim * FLOAT + BLOCK_SCRATCH


def _embedding(shapes: Shapes, frames: int, size_hw: tuple[int, int], memory: Memory) -> Stage:
    """The patch embed: images once more, or its tokens as input and output of a block."""
    gh, gw = _grid(shapes, size_hw)
    tokens = gh * gw + 1 + shapes.registers
    width = frames * tokens * shapes.dim * FLOAT
    images = frames * image_bytes(size_hw)
    chunk = _chunk(shapes, memory, frames, tokens)
    return Stage(
        "patch embed", {"tokens": max(2 * width, width + images, 3 * images - chunk), "a chunk": chunk}
    )


def _blocks(shapes: Shapes, frames: int, size_hw: tuple[int, int], memory: Memory) -> Stage:
    """The last global block, when all layers are kept but its own output."""
    gh, gw = _grid(shapes, size_hw)
    tokens = gh * gw + shapes.special
    width = frames * tokens * shapes.dim * FLOAT
    halves = 2 * len(shapes.kept) - 1 - (memory.tokens == "float32")  # whose frame half is the input itself
    rope = 2 * frames * tokens * (shapes.dim // shapes.heads) * FLOAT
    keys = 2 * width
    chunk = _chunk(shapes, memory, 1, frames * tokens)
    if memory.keys == "int8":
        keys = 2 * width // FLOAT * (KEY_BLOCK + 8) // KEY_BLOCK
        chunk += 2 * min(16 * KEY_BLOCK, frames * tokens) * shapes.dim * FLOAT
    elif shapes.int8_attention:
        keys += 2 * width // FLOAT
    if memory.chunk_tokens and frames * tokens <= memory.chunk_tokens and memory.keys == "float32":
        keys = 0  # nothing waits: all tokens are one chunk
    parts = {
        "kept layers": int(halves * width * _kept(memory)),
        "tokens": 2 * width,
        "keys and values": keys + rope,
        "a chunk": chunk,
    }
    return Stage("attention", parts)


def _kept(memory: Memory) -> float:
    """Bytes in memory of a kept token relative to one in float32."""
    return {"float32": 1.0, "bfloat16": 0.5, "disk": 0.0}[memory.tokens]


def _heads(shapes: Shapes, frames: int, size_hw: tuple[int, int], memory: Memory) -> Stage:
    gh, gw = _grid(shapes, size_hw)
    width = frames * (gh * gw + shapes.special) * shapes.dim * FLOAT
    together = min(frames, memory.head_frames or 8)
    maps = frames * size_hw[0] * size_hw[1] * FLOAT
    parts = {
        "kept layers": int(2 * len(shapes.kept) * width * _kept(memory)),
        "maps": maps * sum(shapes.outputs),
        "some frames": max(_head(shapes, together, size_hw), maps * max(shapes.outputs, default=0)),
    }
    return Stage("heads", parts)


def _head(shapes: Shapes, frames: int, size_hw: tuple[int, int]) -> int:
    """Of a dense head on so many frames: the widest of its last fusion, of its maps at full size, of a copied weight."""
    gh, gw = _grid(shapes, size_hw)
    patches, pixels, features = gh * gw, size_hw[0] * size_hw[1], shapes.features
    areas = (16 * patches, 4 * patches, patches, -(-gh // 2) * -(-gw // 2))
    levels = sum(width * area for width, area in zip(shapes.channels, areas, strict=True))
    levels += features * sum(areas)
    fusion = levels + (features + features // 2) * 4 * areas[0]
    map_, inside = features // 2 * pixels, 32 * pixels  # at full size, and between the last convolutions
    enlarged = features // 2 * 4 * areas[0] + map_
    out = (
        4 * max(shapes.outputs, default=0) * pixels
    )  # of the last convolution, in another order, and the values made from it
    full = max(
        frames * max(enlarged, map_ + inside + out), (frames + 2) * map_
    )  # with its positions in two orders
    tokens = 3 * 2 * shapes.dim * (patches + shapes.special) + shapes.channels[0] * areas[0]
    weights = shapes.channels[-1] ** 2 * 9
    widest = max(frames * fusion, full, frames * (tokens + levels) + weights)
    return widest * FLOAT + HEAD_SCRATCH


def _writing(shapes: Shapes, frames: int, size_hw: tuple[int, int], weights: int) -> Stage:
    """Cameras, clouds and pictures, when the model is gone: maps, their copies, and orders of all confidences."""
    maps = frames * size_hw[0] * size_hw[1] * FLOAT
    return Stage(
        "writing",
        {"maps": maps * (2 * sum(shapes.outputs) + 4), "sheet": SHEET, "without the model": -weights},
    )


def _keeping(shapes: Shapes, frames: int, size_hw: tuple[int, int]) -> Stage:
    """A window is written to its file: the outputs of the network, and the maps made from them."""
    maps = frames * size_hw[0] * size_hw[1] * FLOAT
    return Stage("keeping a window", {"maps": maps * 2 * sum(shapes.outputs)})


def _writing_frames(frames: int, images: int, size_hw: tuple[int, int], weights: int) -> Stage:
    """`_writing` frame by frame, with the values of which percentiles are taken and some text for each image."""
    pixels = size_hw[0] * size_hw[1]
    parts = {
        "values": min(images * pixels, MOST_VALUES) * FLOAT,
        "a frame": FRAME_WIDTHS * pixels * FLOAT,
        "texts": images * TEXT,
        "sheet": SHEET,
        "without the model and a window": -weights - frames * image_bytes(size_hw),
    }
    return Stage("writing", parts)


def smallest(plans: Sequence[Plan]) -> Plan:
    """The plan that takes least."""
    return min(plans, key=lambda plan: plan.bytes)
