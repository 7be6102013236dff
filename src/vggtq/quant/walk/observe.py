"""Statistics of the inputs of linear layers, streamed over calibration samples.

Each layer has one Gram matrix and a few vectors, so memory does not grow with the number of samples. Layers are observed a
few at a time, in the order in which inputs reach them. Earlier layers are quantized by then, so later layers are fitted to
the inputs of the quantized network. A network that declares its stages (`network.stages`) is observed stage by stage: all
samples wait in front of a block; the block runs once in float for the statistics, and once quantized to pass the samples
on. Other networks run as a whole for every few layers, as many as `memory_bytes` allows. Convolutions and attention
projections are not observed; they keep round-to-nearest.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.network.declared import special_tokens, stage_names
from vggtq.network.stages import StagedPasses
from vggtq.quant.methods.statistics import InputStatistics, Layout, Statistics
from vggtq.quant.numbers.hadamard import rotation_of
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.select import is_linear

Calibrate = Callable[[nn.Module], None] | Sequence[Tensor]
"""Runs a model on all calibration samples; or the samples themselves, each of them the input of one call of the
model.
"""

MEMORY_BYTES = 304 * 2**20  # the Gram matrices of one block of VGGT-1B's camera head, its largest


class StatisticsCache(Protocol):
    """Keeps statistics from one run to the next. Groups are asked for in the order of `Observer.groups`."""

    def get(self, group: "Group", compute: Callable[[], Statistics], device: torch.device) -> Statistics: ...


@dataclass(frozen=True)
class Group:
    """Linear layers that are observed together, inside `stage` or anywhere. before: the layers of all earlier groups."""

    stage: str | None
    names: tuple[str, ...]
    before: tuple[str, ...] = field(default=(), repr=False)


class Observer:
    """The owner of statistics of the linear layers of a model.

    A group of layers is observed when one of them is first asked for, and the rest of the previous group is
    dropped. Code that rounds a layer calls `release` when its statistics are no longer needed. So at most one
    group is in memory, and less of it with every layer. rotated: whether scales are looked for behind a
    Hadamard rotation.
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
        stages = () if callable(calibrate) else stage_names(model)
        self.groups = _groups(model, names, stages, memory_bytes)
        self._group_of = {name: i for i, group in enumerate(self.groups) for name in group.names}
        self._observed = 0  # groups
        self._held: Statistics = {}
        self._passes: StagedPasses | None = None
        self.whole_passes, self.seconds = 0, 0.0

    def order(self, name: str) -> int:
        """The place of a layer in the order of observation; those that are not observed come last."""
        return self._group_of.get(name, len(self.groups))

    def of(self, name: str) -> InputStatistics | None:
        """The statistics of one layer, the same until they are released; None for a layer that is not observed.

        Raises QuantizationError for a layer that no sample reaches, and for inputs that are not finite; LookupError for
        statistics that were released.
        """
        if name not in self._group_of:
            return None
        while self._observed <= self._group_of[name]:
            self._held.clear()
            self._held = self._observe(self.groups[self._observed])
            self._observed += 1
        if name not in self._held:
            raise LookupError(f"the statistics of {name} were released")
        statistics = self._held[name]
        if statistics.rows == 0:
            raise QuantizationError(
                f"{name}: no calibration sample reaches this layer; exclude it with scheme.layers.exclude"
            )
        if not torch.isfinite(statistics.largest).all():
            raise QuantizationError(f"{name}: calibration inputs are NaN or infinite; check the samples")
        return statistics

    def release(self, *names: str) -> None:
        """Drops the statistics of these layers, where there are any."""
        for name in names:
            self._held.pop(name, None)

    def _observe(self, group: Group) -> Statistics:
        started = time.perf_counter()
        if self._cache is None:
            statistics = self._computed(group)
        else:
            device = next(iter(self._model.parameters())).device
            statistics = self._cache.get(group, lambda: self._computed(group), device)
        self.seconds += time.perf_counter() - started
        return statistics

    def _computed(self, group: Group) -> Statistics:
        with torch.inference_mode(), _Watch(self._model, group.names, self._rotated) as watch:
            if group.stage is not None:
                self._run_stage(group.stage, watch)
            else:
                show(self._model, self._calibrate)
        self.whole_passes += group.stage is None
        return watch.statistics

    def _run_stage(self, stage: str, watch: "_Watch") -> None:
        assert not callable(self._calibrate)
        if self._passes is None:
            self._passes = StagedPasses(self._model, self._calibrate)
        for waiting in self._passes.before(stage):
            watch.begin(waiting.inputs)
            waiting.call()


def observer_for(
    model: nn.Module,
    scheme: Scheme,
    layers: Sequence[str],
    calibrate: Calibrate | None,
    cache: StatisticsCache | None = None,
) -> Observer | None:
    """The observer of `layers`, or None where `scheme` rounds without data. Raises QuantizationError without samples."""
    if not scheme.needs_statistics:
        return None
    return Observer(model, layers, needed(calibrate, scheme), cache=cache, rotated=scheme.scales_rotated)


def needed(calibrate: Calibrate | None, scheme: Scheme) -> Calibrate:
    """`calibrate` itself. Raises QuantizationError where it is None."""
    if calibrate is None:
        raise QuantizationError(
            f"scheme {scheme.name} looks at the inputs of layers; pass calibrate=, the samples or a function that runs them"
        )
    return calibrate


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
    groups: list[Group] = []
    before: tuple[str, ...] = ()
    for stage in (*stages, None):
        inside = [name for name in linears if stage is None or f"{name}.".startswith(f"{stage}.")]
        linears = [name for name in linears if name not in inside]
        for fitting in _fitting(model, inside, memory_bytes):
            groups.append(Group(stage, fitting, before))
            before += fitting
    return groups


def _fitting(model: nn.Module, names: Sequence[str], memory_bytes: int) -> Iterator[tuple[str, ...]]:
    """Consecutive names whose Gram matrices fit together; at least one."""
    together: list[str] = []
    used = 0
    for name in names:
        size = 4 * model.get_parameter(f"{name}.weight").shape[1] ** 2
        if together and used + size > memory_bytes:
            yield tuple(together)
            together, used = [], 0
        together.append(name)
        used += size
    if together:
        yield tuple(together)


class _Watch(ExitStack):
    """While it is open, the inputs of the named layers are entered into `statistics`."""

    def __init__(self, model: nn.Module, names: Sequence[str], rotated: bool) -> None:
        super().__init__()
        self.statistics: Statistics = {}
        self._model = model
        self._layouts: Mapping[str, Layout] = {}
        self.callback(model.register_forward_pre_hook(lambda _, inputs: self.begin(inputs[0])).remove)
        for name in names:
            weight = model.get_parameter(f"{name}.weight")
            columns = weight.shape[1]
            rotation = rotation_of(columns) if rotated else 0
            self.statistics[name] = InputStatistics.empty(columns, weight.device, rotation)
            hook = model.get_submodule(name).register_forward_pre_hook(partial(self._enter, name))
            self.callback(hook.remove)

    def begin(self, inputs: Tensor) -> None:
        """Announces the inputs of the model from which the next layer inputs come."""
        self._layouts = special_tokens(self._model, inputs)

    def _enter(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layout = next((kind for prefix, kind in self._layouts.items() if name.startswith(prefix)), (1, 0))
        self.statistics[name].update(inputs[0], layout)
