"""What rounding has to cope with: activation outliers per layer, and quality after rounding, of the shipped models.

python -m vggtq.mini_outliers --scenes 24 recomputes the tables of docs/vggt_mini.md. Outlier ratio of a layer: the
largest |x| of any input channel over the median of the channels' largest |x|. Special tokens are camera and register tokens.
"""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggtq.config import compose, validated
from vggtq.data.room_render import Frames
from vggtq.evaluate_mini import held_out, quality
from vggtq.models.vggt import VGGT
from vggtq.quant.quantize import quantize_
from vggtq.quant.scheme import Activations, Scheme, Weights

MODELS = ("vggt_mini", "vggt_mini_outliers")
SHOWN = ("abs_rel", "auc_30", "auc_10", "point_error")
SPLIT = "calibration"  # the test split is for the figures of the card
DYNAMIC = {bits: Activations("dynamic", bits) for bits in (8, 4)}
SCHEMES = {
    "FP32": None,
    "W8 per channel": Scheme("w8", Weights(bits=8)),
    "W8A8": Scheme("w8a8", Weights(bits=8), DYNAMIC[8]),
    "W4 group 32": Scheme("w4g32", Weights(bits=4, granularity="group", group_size=32)),
    "W4 per channel": Scheme("w4", Weights(bits=4)),
    "W4A8": Scheme("w4a8", Weights(bits=4), DYNAMIC[8]),
    "W4A4": Scheme("w4a4", Weights(bits=4), DYNAMIC[4]),
}


@dataclass(frozen=True)
class Outliers:
    """Of the input of one linear layer inside the aggregator's frame and global blocks."""

    layer: str
    ratio: float
    special_over_patch: float  # ratio of the largest |x| of the two kinds of tokens


def activation_outliers(model: VGGT, images: Tensor) -> list[Outliers]:
    """images: (S, 3, H, W)."""
    found: list[Outliers] = []
    frames, special = len(images), model.aggregator.patch_start_idx
    with torch.inference_mode():
        for name, value in _inputs(model, images):
            peak = value.abs().amax(tuple(range(value.ndim - 1)))
            tokens = value.reshape(frames, -1, value.shape[-1]).abs()
            kinds = tokens[:, :special].amax() / tokens[:, special:].amax()
            found.append(Outliers(name, float(peak.max() / peak.median()), float(kinds)))
    return found


def _inputs(model: VGGT, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and input of every linear of the frame and global blocks, in the order in which they run."""
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _m, inputs, name=name: seen.append((name, inputs[0].detach()))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("aggregator.frame_", "aggregator.global_"))
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen


def rounded_quality(model: VGGT, frames: Frames) -> Iterator[tuple[str, dict[str, float]]]:
    """The quality under every one of SCHEMES."""
    for label, scheme in SCHEMES.items():
        twin = copy.deepcopy(model)
        if scheme is not None:
            quantize_(twin, scheme)
        yield label, quality(twin, frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=32)
    options = parser.parse_args()
    for name in MODELS:
        config = validated(compose([f"model={name}"])).model
        model, size = config.load(torch.device("cpu")).module, config.image_size
        frames = held_out(SPLIT, 1, options.scenes, 4, (size, size))
        print(f"\n{name}: outlier ratio and special over patch tokens, inputs of the aggregator's linears")
        outliers = activation_outliers(model, frames.images[0])
        for part in ("qkv", "proj", "fc1", "fc2"):
            rows = [o for o in outliers if o.layer.endswith(part)]
            ratios = torch.tensor([[o.ratio, o.special_over_patch] for o in rows])
            middle, largest = ratios.median(0).values.tolist(), ratios.amax(0).tolist()
            print(f"| {part} | {middle[0]:.1f} | {largest[0]:.1f} | {middle[1]:.2f} | {largest[1]:.2f} |")
        for label, row in rounded_quality(model, frames):
            print(f"| {label} | " + " | ".join(f"{row[key]:.3f}" for key in SHOWN) + " |", flush=True)


if __name__ == "__main__":
    main()
