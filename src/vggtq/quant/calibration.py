"""What layers see: statistics of the inputs of linear layers, streamed over calibration samples.

Memory does not grow with the samples: per layer one Gram matrix and a few vectors. Layers are observed a few at a time, in the
order in which inputs reach them; layers that are quantized by then run quantized, so that later ones are fitted to the inputs
that they will really get. A network that declares its stages (`vggtq.stages`) is observed stage by stage: all samples wait in
front of a block, which runs once to be observed and once more, quantized, to let them pass. Other networks run as a whole for
every few layers, as many as `memory_bytes` allows. Left out: convolutions and attention projections, which keep
round-to-nearest.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.hadamard import rotate, rotation_of
from vggtq.stages import StagedPasses

Calibrate = Callable[[nn.Module], None] | Sequence[Tensor]
"""Runs a model on all calibration samples; or the samples themselves, each of them what the model is called with."""

MEMORY_BYTES = 304 * 2**20  # the Gram matrices of one block of VGGT-1B's camera head, its largest

Layout = tuple[int, int]
"""Rows of a layer's input that belong together, the tokens of a frame, and how many of them, from the first, are special."""


@dataclass
class InputStatistics:
    """gram: (C, C) float32, mean of x xᵀ over rows; mean_abs, largest: (C,), mean and maximum of |x| per channel.

    rotation: width of the Hadamard blocks that mean_abs and largest are seen behind, 0 for none.
    special, ordinary: (C,), the maximum over tokens that stand for no patch (camera, class and register tokens) and over all
    others. Zero where there are none.
    """

    gram: Tensor
    mean_abs: Tensor
    largest: Tensor
    rows: int = 0
    special: Tensor | None = None
    ordinary: Tensor | None = None
    rotation: int = 0

    @classmethod
    def empty(cls, columns: int, device: torch.device, rotation: int = 0) -> "InputStatistics":
        gram, vectors = torch.zeros(columns, columns, device=device), torch.zeros(4, columns, device=device)
        return cls(gram, vectors[0], vectors[1], 0, vectors[2], vectors[3], rotation)

    def update(self, x: Tensor, layout: Layout = (1, 0)) -> None:
        """x: (…, C)."""
        new = x.detach().reshape(-1, x.shape[-1]).float()
        total = self.rows + len(new)
        magnitude = new.abs()
        seen = rotate(new, self.rotation).abs() if self.rotation else magnitude
        self.gram.mul_(self.rows / total).addmm_(new.T, new, alpha=1 / total)
        self.mean_abs.mul_(self.rows / total).add_(seen.sum(0), alpha=1 / total)
        self.largest = torch.maximum(self.largest, seen.amax(0))
        self.rows = total
        frames, count = magnitude.unflatten(0, (-1, layout[0])), layout[1]
        self.special = _largest(self.special, frames[:, :count])
        self.ordinary = _largest(self.ordinary, frames[:, count:])

    def rotated(self) -> "InputStatistics":
        """With the Gram matrix of rotated inputs as well."""
        half = rotate(self.gram, self.rotation)
        return replace(self, gram=rotate(half.T.contiguous(), self.rotation))

    @property
    def special_ratio(self) -> float | None:
        """The largest |x| of special tokens over that of all others; None where one kind is missing."""
        if self.special is None or self.ordinary is None:
            return None
        special, ordinary = float(self.special.amax()), float(self.ordinary.amax())
        return special / ordinary if special > 0 and ordinary > 0 else None


def _largest(known: Tensor | None, magnitude: Tensor) -> Tensor | None:
    if known is None or magnitude.shape[1] == 0:
        return known
    return torch.maximum(known, magnitude.amax((0, 1)))


Statistics = dict[str, InputStatistics]


class StatisticsCache(Protocol):
    """Keeps statistics from one run to the next. Groups are asked for in the order of `Observer.groups`."""

    def get(self, group: "Group", compute: Callable[[], Statistics], device: torch.device) -> Statistics: ...


@dataclass(frozen=True)
class Group:
    """Linear layers that are observed together, below `stage` or anywhere. before: layers that stood before them."""

    stage: str | None
    names: tuple[str, ...]
    before: tuple[str, ...] = field(default=(), repr=False)


class Observer:
    """Statistics of the linear layers of a model, collected when they are first asked for, in the order of `groups`.

    rotated: whether scales are looked for behind a Hadamard rotation.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        calibrate: Calibrate,
        memory_bytes: int = MEMORY_BYTES,
        cache: StatisticsCache | None = None,
        rotated: bool = False,
    ) -> None:
        self._model, self._calibrate, self._cache = model, calibrate, cache
        self._rotated = rotated
        staged = not callable(calibrate) and hasattr(model, "stages")
        stages = model.stage_names() if staged else []  # type: ignore[operator]
        self.groups = _groups(model, names, stages, memory_bytes)
        self._waiting = list(self.groups)
        self._ready: Statistics = {}
        self._passes: StagedPasses | None = None
        self.whole_passes, self.seconds = 0, 0.0

    def order(self, name: str) -> int:
        """Where a layer comes in the order of observation; those that are not observed come last."""
        return next((i for i, group in enumerate(self.groups) if name in group.names), len(self.groups))

    def take(self, name: str) -> InputStatistics | None:
        """The statistics of one layer, which are forgotten then; None for a layer that is not a linear one.

        Raises QuantizationError for a layer that no sample reaches, and for inputs that are not finite.
        """
        while any(name in group.names for group in self._waiting):
            # What nobody has asked for by now (of weights with several users) goes.
            self._ready = self._observe(self._waiting.pop(0))
        statistics = self._ready.pop(name, None)
        if statistics is not None and statistics.rows == 0:
            raise QuantizationError(
                f"{name}: no calibration sample reaches this layer; exclude it with scheme.layers.exclude"
            )
        if statistics is not None and not torch.isfinite(statistics.largest).all():
            raise QuantizationError(f"{name}: calibration inputs are NaN or infinite; check the samples")
        return statistics

    def _observe(self, group: Group) -> Statistics:
        started = time.perf_counter()
        if self._cache is None:
            found = self._computed(group)
        else:
            device = next(iter(self._model.parameters())).device
            found = self._cache.get(group, lambda: self._computed(group), device)
        self.seconds += time.perf_counter() - started
        return found

    def _computed(self, group: Group) -> Statistics:
        with torch.inference_mode(), _Watch(self._model, group.names, self._rotated) as watch:
            if group.stage is not None:
                self._run_stage(group.stage, watch)
            else:
                show(self._model, self._calibrate)
        self.whole_passes += group.stage is None
        return watch.found

    def _run_stage(self, stage: str, watch: "_Watch") -> None:
        assert not callable(self._calibrate)
        if self._passes is None:
            self._passes = StagedPasses(self._model, self._calibrate)
        for waiting in self._passes.before(stage):
            watch.begin(waiting.inputs)
            waiting.call()


def show(model: nn.Module, calibrate: Calibrate) -> None:
    """Runs a whole pass of the model over all samples."""
    if callable(calibrate):
        calibrate(model)
        return
    device = next(iter(model.parameters())).device
    for batch in calibrate:
        model(batch.to(device))


def _groups(model: nn.Module, names: Sequence[str], stages: Sequence[str], memory_bytes: int) -> list[Group]:
    """The linear layers among `names`: stage by stage, then those in no stage; each as small as memory asks."""
    linears = [name for name in names if is_linear(model, name)]
    found: list[Group] = []
    before: tuple[str, ...] = ()
    for stage in (*stages, None):
        own = [name for name in linears if stage is None or f"{name}.".startswith(f"{stage}.")]
        linears = [name for name in linears if name not in own]
        for chosen in _fitting(model, own, memory_bytes):
            found.append(Group(stage, chosen, before))
            before += chosen
    return found


def _fitting(model: nn.Module, names: Sequence[str], memory_bytes: int) -> Iterator[tuple[str, ...]]:
    """Consecutive names whose Gram matrices fit together; at least one."""
    chosen: list[str] = []
    used = 0
    for name in names:
        linear: Any = model.get_submodule(name)
        size = 4 * linear.in_features**2
        if chosen and used + size > memory_bytes:
            yield tuple(chosen)
            chosen, used = [], 0
        chosen.append(name)
        used += size
    if chosen:
        yield tuple(chosen)


class _Watch(ExitStack):
    """While it is open, the inputs of the named layers are entered into `found`."""

    def __init__(self, model: nn.Module, names: Sequence[str], rotated: bool) -> None:
        super().__init__()
        self.found: Statistics = {}
        self._special_tokens: Callable[[Tensor], Mapping[str, Layout]] = getattr(
            model, "special_tokens", lambda _: {}
        )
        self._layouts: Mapping[str, Layout] = {}
        self.callback(model.register_forward_pre_hook(lambda _, inputs: self.begin(inputs[0])).remove)
        for name in names:
            linear: Any = model.get_submodule(name)
            rotation = rotation_of(linear.in_features) if rotated else 0
            self.found[name] = InputStatistics.empty(linear.in_features, linear.weight.device, rotation)
            self.callback(linear.register_forward_pre_hook(partial(self._enter, name)).remove)

    def begin(self, inputs: Tensor) -> None:
        """What comes now belongs to these inputs of the model."""
        self._layouts = self._special_tokens(inputs)

    def _enter(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layout = next((kind for prefix, kind in self._layouts.items() if name.startswith(prefix)), (1, 0))
        self.found[name].update(inputs[0], layout)


def is_linear(model: nn.Module, name: str) -> bool:
    """Whether `name` is a layer whose inputs can be seen; the projections of nn.MultiheadAttention never run themselves."""
    return type(dict(model.named_modules()).get(name)) is nn.Linear
