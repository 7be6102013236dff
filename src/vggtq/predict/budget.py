"""`budget_gb=`: the plan that fits, before the model is loaded, and what was measured against it."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vggtq.artifact.header import Header
from vggtq.data.select import count
from vggtq.errors import ConfigError
from vggtq.machine.memory import peak_rss_bytes, release_at_once, release_free_memory, rss_bytes
from vggtq.models.checkpoints.files import SAFETENSORS_DTYPES, open_tensors
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

log = logging.getLogger(__name__)

POINT_HEAD = "point_head."


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
        sizes = _weights(skeleton, header, path)
        unused = 0 if points else sum(v for k, v in sizes.items() if k.startswith(POINT_HEAD))
        self._weights = sum(sizes.values()) - unused
        largest_weight = 4 * max(t.numel() for t in skeleton.parameters())
        self._loading = unused + min(MAPPED, path.stat().st_size) + largest_weight
        if not points:
            skeleton.leave_out_points_()
        self._shapes = Shapes.of(skeleton, header.scheme.attention == "int8")

    def choose(self, inputs: Inputs, wanted: Memory) -> Plan:
        """The first plan of the ladder that fits. Raises ConfigError where none does, with what would."""
        frames, size_hw = len(inputs.images), inputs.size_hw
        release_free_memory()
        process, plans = rss_bytes() or peak_rss_bytes(), []
        for memory in choices(wanted):
            plans.append(self._plan(frames, size_hw, memory, process))
            if plans[-1].bytes <= self.bytes:
                return plans[-1]
        least = smallest(plans)
        alone = process - inputs.images.nbytes
        most = max(largest(self._maker(size_hw, p.memory, alone), self.bytes) for p in plans)
        height, width = size_hw
        remedy = f"at most {count(most, 'image')} of that size fit" if most else "not even one image fits"
        raise ConfigError(
            f"budget_gb={self._gb:g}: {count(frames, 'image')} of {width}×{height} pixels need {_up(least.bytes)} at least "
            f"({least.memory.label}); {remedy}; use budget_gb={_up(least.bytes)}, fewer images or a smaller image_size"
        )

    def _maker(self, size_hw: tuple[int, int], memory: Memory, process: int) -> Callable[[int], Plan]:
        """process: bytes without images."""
        return lambda frames: self._plan(frames, size_hw, memory, process + frames * image_bytes(size_hw))

    def _plan(self, frames: int, size_hw: tuple[int, int], memory: Memory, process: int) -> Plan:
        return plan(self._shapes, frames, size_hw, memory, process, self._weights, self._loading)


def tell(chosen: Plan) -> None:
    """Prints the plan."""
    for line in chosen.lines():
        log.info("plan    %s", line)


def compared(chosen: Plan) -> dict[str, Any]:
    """What the index says of the plan, with the peak of this process; printed, too."""
    measured = peak_rss_bytes()
    log.info("memory  %s GiB predicted, %s GiB measured", gib(chosen.bytes), gib(measured))
    return {
        "levers": dict(vars(chosen.memory)),
        "predicted_bytes": chosen.bytes,
        "measured_peak_bytes": measured,
        "stages": {stage.name: stage.parts for stage in chosen.stages},
        "process_bytes": chosen.process,
        "weights_bytes": chosen.weights,
    }


def _up(size: int) -> str:
    """GiB that are no less, with two digits behind the point."""
    return f"{-(-size * 100 // GIB) / 100:.2f}"


def _weights(skeleton: Network, header: Header, path: Path) -> dict[str, int]:
    """Bytes in memory by the name of a tensor: what is quantized as it is stored, all else in float32."""
    users = Counter(entry.codes for entry in header.layers)
    floats = skeleton.state_dict(keep_vars=True)
    sizes = {name: 4 * floats[name].numel() for name in floats}
    quantized = {f"{entry.name}.weight" for entry in header.layers}
    sizes = {name: size for name, size in sizes.items() if name not in quantized}
    stored = open_tensors(path.expanduser())
    for name, (shape, dtype) in stored.layout.items():
        if name not in floats:
            item = getattr(torch, SAFETENSORS_DTYPES.get(dtype, ""), None)
            bytes_each = item.itemsize if item else _ITEM.get(dtype, 1)
            sizes[name] = bytes_each * torch.Size(shape).numel() * max(1, users[name.rpartition(".")[0]])
    stored.close()
    return sizes


_ITEM = {
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F8_E4M3": 1,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}


def _warm_up() -> None:
    """Loads what the libraries of torch load when they are first used, so that it counts before the plan."""
    with torch.inference_mode():
        x = torch.zeros(1, 8, 32, 32)
        x = torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3))
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        torch.nn.functional.linear(x, torch.zeros(8, x.shape[-1]))
