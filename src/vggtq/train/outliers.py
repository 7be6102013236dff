"""`vggtq train outliers`: activation outliers per layer, and quality after rounding, of the shipped models."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.procedural import Frames
from vggtq.models.vggt.network import VGGT
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.quantize import quantize_
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option
from vggtq.train.evaluate import held_out, quality

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


@dataclass
class Options:
    """The number of scenes to measure on."""

    scenes: int = option(f"of the split {SPLIT}", 32, least=1)


COMMAND = Command(
    "train outliers",
    Options,
    ("", "scenes=24"),
    """\
scenes=24 recomputes the tables of docs/vggt_mini.md. Outlier ratio of a layer: the largest |x| of any input channel over the
median of the channels' largest |x|. Special tokens are camera and register tokens.
""",
)


def activation_outliers(model: VGGT, images: Tensor) -> dict[str, tuple[float, float]]:
    """Per linear layer of the frame and global blocks the two ratios that `--help` explains. images: (S, 3, H, W)."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("aggregator.frame_", "aggregator.global_"))
    ]
    observer = Observer(model, names, [images])
    found = {}
    for name in sorted(names, key=observer.order):
        statistics = observer.of(name)
        assert statistics is not None and statistics.special_ratio is not None
        peaks = statistics.largest
        found[name] = (float(peaks.max() / peaks.median()), statistics.special_ratio)
    return found


def rounded_quality(model: VGGT, frames: Frames) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The scores of every scene under every one of SCHEMES."""
    for label, scheme in SCHEMES.items():
        twin = copy.deepcopy(model)
        if scheme is not None:
            quantize_(twin, scheme)
        yield label, quality(twin, frames)


def _work(options: Options) -> None:
    for name in MODELS:
        config = validated(compose([f"model={name}"])).model
        model, size = config.load(torch.device("cpu")).module, config.image_size
        frames = held_out("objects", SPLIT, 1, options.scenes, 4, (size, size))
        print(f"\n{name}: outlier ratio and special over patch tokens, inputs of the aggregator's linears")
        outliers = activation_outliers(model, frames.images[0])
        for part in ("qkv", "proj", "fc1", "fc2"):
            ratios = torch.tensor([pair for layer, pair in outliers.items() if layer.endswith(part)])
            middle, largest = ratios.median(0).values.tolist(), ratios.amax(0).tolist()
            print(f"| {part} | {middle[0]:.1f} | {largest[0]:.1f} | {middle[1]:.2f} | {largest[1]:.2f} |")
        for label, row in rounded_quality(model, frames):
            print(f"| {label} | " + " | ".join(f"{row[key].mean():.3f}" for key in SHOWN) + " |", flush=True)


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
