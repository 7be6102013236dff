"""The picture of sensitivities: layers in the order of the network by width, and how outputs differ at the middle width."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.files.atomic import replacing

if TYPE_CHECKING:
    from vggtq.quant.bits.sensitivity import Sensitivities


INCHES_PER_LAYER = 0.2
MOST_INCHES = 60.0


def draw_sensitivities(found: "Sensitivities", title: str, path: Path) -> None:
    """Writes a PNG. Colour is the relative error on a logarithmic scale: of the mean above, of each output below."""
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    layers, widths, outputs = len(found.layers), len(found.bits), len(found.errors)
    middle = found.bits.index(4) if 4 in found.bits else widths // 2
    relative = {name: errors.sqrt().numpy() for name, errors in found.errors.items()}
    mean = np.mean(list(relative.values()), axis=0).T[::-1]
    by_output = np.stack([errors[:, middle] for errors in relative.values()])
    width = min(max(9.0, 2.6 + INCHES_PER_LAYER * layers), MOST_INCHES)
    figure = Figure(figsize=(width, 2.6 + 0.3 * (widths + outputs)), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[widths, outputs])
    for axis, values, names, label in (
        (upper, mean, [f"{bits} bits" for bits in reversed(found.bits)], "mean of outputs"),
        (lower, by_output, list(found.errors), f"each output, {found.bits[middle]} bits"),
    ):
        positive = values[values > 0]
        norm = LogNorm(positive.min(), positive.max()) if positive.size else None
        image = axis.imshow(values, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, pad=0.01, label=label)
    _name_parts(lower, upper, [names[0] for names in found.layers])
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _name_parts(lower: Any, upper: Any, names: list[str]) -> None:
    """Ticks with the last words of a layer's name, lines and names where the parts of the network begin."""
    parts = _parts(names)
    ticks = [name.removeprefix(f"{part}.") for name, part in zip(names, parts, strict=True)]
    lower.set_xticks(range(len(names)), ticks, rotation=90, fontsize=6)
    for i, part in enumerate(parts):
        if i and parts[i - 1] == part:
            continue
        for axis in (upper, lower):
            axis.axvline(i - 0.5, color="white", linewidth=1.5)
        upper.text(i - 0.4, -0.65, part, fontsize=8, va="bottom", clip_on=False)


def _parts(names: list[str]) -> list[str]:
    """Of each layer the part of the network: two words of its name where such parts have room for them, else one."""
    fine = [".".join(name.split(".")[:2]) for name in names]
    layers = Counter(fine)
    narrow = {part.split(".")[0] for part in fine if layers[part] * INCHES_PER_LAYER < 0.07 * len(part)}
    return [part.split(".")[0] if part.split(".")[0] in narrow else part for part in fine]
