"""What layers see: statistics of the inputs of linear layers, streamed over calibration samples.

Memory does not grow with the samples: per layer one Gram matrix and two vectors. Layers are observed a few at a time,
as many as `memory_bytes` allows, each time with one pass over the samples; layers that are quantized by then run
quantized, so that later ones are fitted to the inputs that they will really get. Left out: convolutions and attention
projections, which keep round-to-nearest.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError

Calibrate = Callable[[nn.Module], None]
"""Runs a model on all calibration samples."""

MEMORY_BYTES = 2**30


@dataclass
class InputStatistics:
    """gram: (C, C) float32, mean of x xᵀ over rows; mean_abs, largest: (C,), mean and maximum of |x| per channel."""

    gram: Tensor
    mean_abs: Tensor
    largest: Tensor
    rows: int = 0

    @classmethod
    def empty(cls, columns: int, device: torch.device) -> "InputStatistics":
        return cls(
            torch.zeros(columns, columns, device=device),
            torch.zeros(columns, device=device),
            torch.zeros(columns, device=device),
        )

    def update(self, x: Tensor) -> None:
        """x: (…, C)."""
        new = x.detach().reshape(-1, x.shape[-1]).float()
        total = self.rows + len(new)
        magnitude = new.abs()
        self.gram.mul_(self.rows / total).addmm_(new.T, new, alpha=1 / total)
        self.mean_abs.mul_(self.rows / total).add_(magnitude.sum(0), alpha=1 / total)
        self.largest = torch.maximum(self.largest, magnitude.amax(0))
        self.rows = total


class Observer:
    """Statistics of the linear layers of a model, collected when they are first asked for."""

    def __init__(
        self, model: nn.Module, names: Sequence[str], calibrate: Calibrate, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self._model, self._calibrate, self._memory = model, calibrate, memory_bytes
        self._waiting = [name for name in names if is_linear(model, name)]
        self._ready: dict[str, InputStatistics] = {}
        self.passes = 0

    def take(self, name: str) -> InputStatistics | None:
        """The statistics of one layer, which are forgotten then; None for a layer that is not a linear one.

        Raises QuantizationError for a layer that no sample reaches, and for inputs that are not finite.
        """
        if name in self._waiting:
            self._observe()
        statistics = self._ready.pop(name, None)
        if statistics is not None and statistics.rows == 0:
            raise QuantizationError(
                f"{name}: no calibration sample reaches this layer; exclude it with scheme.layers.exclude"
            )
        if statistics is not None and not torch.isfinite(statistics.largest).all():
            raise QuantizationError(f"{name}: calibration inputs are NaN or infinite; check the samples")
        return statistics

    def _observe(self) -> None:
        """One pass over the samples for the next layers."""
        chosen: list[str] = []
        used = 0
        while self._waiting:
            linear: Any = self._model.get_submodule(self._waiting[0])
            used += 4 * linear.in_features**2
            if chosen and used > self._memory:
                break
            chosen.append(self._waiting.pop(0))
        with torch.inference_mode(), _hooks(self._model, chosen) as statistics:
            self._calibrate(self._model)
        self._ready |= statistics
        self.passes += 1


def is_linear(model: nn.Module, name: str) -> bool:
    """Whether `name` is a layer whose inputs can be seen; the projections of nn.MultiheadAttention never run themselves."""
    return type(dict(model.named_modules()).get(name)) is nn.Linear


@contextmanager
def _hooks(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, InputStatistics]]:
    """While it is open, the inputs of the named layers are entered into what it yields."""
    found: dict[str, InputStatistics] = {}
    with ExitStack() as stack:
        for name in names:
            linear: Any = model.get_submodule(name)
            found[name] = InputStatistics.empty(linear.in_features, linear.weight.device)

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], into: InputStatistics = found[name]) -> None:
                into.update(inputs[0])

            stack.callback(linear.register_forward_pre_hook(hook).remove)
        yield found
