"""`budget_gb=`: the plan that fits, before the model is loaded, and its comparison with the measured peak."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggtq.artifact.header import Header
from vggtq.data.select import count
from vggtq.errors import ConfigError
from vggtq.machine.memory import peak_rss_bytes, release_at_once, release_free_memory, rss_bytes
from vggtq.models.checkpoints.files import open_tensors
from vggtq.models.loading import model_of
from vggtq.models.network import Network
from vggtq.models.vggt.network import VGGT
from vggtq.network.memory import Memory
from vggtq.predict.inputs import Inputs
from vggtq.predict.plan import (
    GIB,
    MAPPED,
    Plan,
    Shapes,
    choices,
    gib,
    image_bytes,
    largest,
    plan,
    smallest,
)
from vggtq.predict.windows.options import AUTO, Windows

log = logging.getLogger(__name__)

POINT_HEAD = "point_head."


@dataclass(frozen=True)
class _Sizes:
    """Of what is to be predicted. process: bytes of this process without images."""

    images: int
    size_hw: tuple[int, int]
    process: int


class Budget:
    """Bytes of a whole prediction of one model. Raises ConfigError for devices and networks that no plan is made for."""

    def __init__(self, gb: float, header: Header, path: Path, device: torch.device, points: bool) -> None:
        if device.type != "cpu":
            raise ConfigError(
                f"budget_gb={gb:g} with device={device.type}: plans are made for CPUs; use device=cpu, or the memory.… options"
            )
        skeleton = model_of(header.model).skeleton() if header.model else None
        if not isinstance(skeleton, VGGT):
            name = (header.model or {}).get("name", "this model")
            raise ConfigError(
                f"budget_gb={gb:g}: plans are made for VGGT, not for {name}; use the memory.… options"
            )
        release_at_once()  # or peaks grow by what the C library keeps
        _warm_up()
        self.bytes, self._gb = int(gb * GIB), gb
        sizes = weight_bytes(skeleton, header, path)
        unused = 0 if points else sum(v for k, v in sizes.items() if k.startswith(POINT_HEAD))
        self._weights = sum(sizes.values()) - unused
        largest_weight = 4 * max(t.numel() for t in skeleton.parameters())
        self._loading = unused + min(MAPPED, path.stat().st_size) + largest_weight
        if not points:
            skeleton.leave_out_points_()
        self._shapes = Shapes.of(skeleton, header.scheme.attention == "int8")

    def choose(self, inputs: Inputs, wanted: Memory, windows: Windows) -> Plan:
        """The first plan of the ladder that fits; windows come last. Raises ConfigError where none does; the
        message names settings that would fit.
        """
        release_free_memory()
        held = inputs.images.nbytes if isinstance(inputs.images, Tensor) else 0
        sizes = _Sizes(len(inputs.names), inputs.size_hw, (rss_bytes() or peak_rss_bytes()) - held)
        levers = list(choices(wanted))
        asked = windows.frames if isinstance(windows.frames, int) else sizes.images
        together = min(asked, sizes.images)
        if chosen := self._first(sizes, levers, together):
            return chosen
        in_windows = max(self._most(sizes, memory, in_windows=True) for memory in levers)
        fewest = windows.fewest
        if windows.frames == AUTO and in_windows >= fewest:
            chosen = self._first(sizes, levers, in_windows)
            assert chosen is not None
            return chosen
        if windows.frames == AUTO:
            together = min(fewest, sizes.images)
        raise ConfigError(self._refusal(sizes, levers, together, in_windows >= fewest))

    def _first(self, sizes: "_Sizes", levers: Sequence[Memory], frames: int) -> Plan | None:
        plans = (self._plan(sizes, memory, frames) for memory in levers)
        return next((plan for plan in plans if plan.bytes <= self.bytes), None)

    def _most(self, sizes: "_Sizes", memory: Memory, in_windows: bool) -> int:
        """The most images the network may see together: in windows of all, or if there were no others."""

        def planned(frames: int) -> Plan:
            return self._plan(sizes, memory, frames, max(sizes.images, frames + 1) if in_windows else frames)

        most = largest(planned, self.bytes)
        return min(most, sizes.images - 1) if in_windows else most

    def _refusal(self, sizes: "_Sizes", levers: Sequence[Memory], together: int, auto: bool) -> str:
        """The error message about too many images, all `together` of them or windows of them. auto: whether
        windows of fewer would fit.
        """
        least = smallest([self._plan(sizes, memory, together) for memory in levers])
        in_windows = together < sizes.images
        most = max(self._most(sizes, memory, in_windows) for memory in levers)
        height, width = sizes.size_hw
        what = f"{'windows of ' if in_windows else ''}{count(together, 'image')} of {width}×{height} pixels"
        fit = f"at most {count(most, 'image')} of that size fit" if most > 0 else "not even one image fits"
        ways = [f"budget_gb={_up(least.bytes)}", *([f"windows.frames={AUTO}"] if auto else [])]
        return (
            f"budget_gb={self._gb:g}: {what} need {_up(least.bytes)} at least ({least.memory.label}); {fit}; "
            f"use {', '.join(ways)}, fewer images or a smaller image_size"
        )

    def _plan(self, sizes: "_Sizes", memory: Memory, frames: int, images: int | None = None) -> Plan:
        """images: all there are, by default those of `sizes`."""
        process = sizes.process + frames * image_bytes(sizes.size_hw)
        total = sizes.images if images is None else images
        return plan(self._shapes, frames, sizes.size_hw, memory, process, self._weights, self._loading, total)


def tell(chosen: Plan) -> None:
    """Prints the plan."""
    for line in chosen.lines():
        log.info("plan    %s", line)


def compared(chosen: Plan) -> dict[str, Any]:
    """The index's entry about the plan and the measured peak of this process; both peaks are logged."""
    measured = peak_rss_bytes()
    log.info("memory  %s GiB predicted, %s GiB measured", gib(chosen.bytes), gib(measured))
    return {
        "levers": dict(vars(chosen.memory)),
        "windows_frames": chosen.frames if chosen.frames < chosen.images else None,
        "predicted_bytes": chosen.bytes,
        "measured_peak_bytes": measured,
        "stages": {stage.name: stage.parts for stage in chosen.stages},
        "process_bytes": chosen.process,
        "weights_bytes": chosen.weights,
    }


def _up(size: int) -> str:
    """GiB that are no less, with two digits behind the point."""
    return f"{-(-size * 100 // GIB) / 100:.2f}"


def weight_bytes(skeleton: Network, header: Header, path: Path) -> dict[str, int]:
    """Bytes in memory by the name of a tensor: quantized ones as they are stored, all others in float32."""
    users = Counter(entry.codes for entry in header.layers)
    floats = skeleton.state_dict(keep_vars=True)
    sizes = {name: 4 * floats[name].numel() for name in floats}
    quantized = {f"{entry.name}.weight" for entry in header.layers}
    sizes = {name: size for name, size in sizes.items() if name not in quantized}
    stored = open_tensors(path.expanduser())
    for name, (shape, dtype) in stored.layout.items():
        if name not in floats:
            sizes[name] = (
                _bytes_each(dtype) * torch.Size(shape).numel() * max(1, users[name.rpartition(".")[0]])
            )
    stored.close()
    return sizes


def _bytes_each(dtype: str) -> int:
    """Of `float16`, `U8`, `F8_E4M3` and so on: a name without a number is a byte."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def _warm_up() -> None:
    """Loads the parts that torch's libraries load on first use, so that they count before the plan."""
    with torch.inference_mode():
        x = torch.zeros(1, 8, 32, 32)
        x = torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3))
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        torch.nn.functional.linear(x, torch.zeros(8, x.shape[-1]))
